"""The configuration: our keys with their defaults, and a reader of YAML files that runs no code."""

import difflib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.utils.file_io import PathManager

from mask_former.d2.errors import InputError

_SCALES_TAG = "tag:yaml.org,2002:python/object/apply:eval"
# The digits are bounded, so that no file can ask for a list that fills the memory.
_SCALES = re.compile(r"\[int\(x \* 0\.1 \* (\d{1,5})\) for x in range\((\d{1,3}), (\d{1,3})\)\]")


def get_mask_former_cfg() -> CfgNode:
    """Detectron2's defaults with DeepLab's keys and ours, as every script starts from."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    add_mask_former_config(cfg)
    return cfg


def add_mask_former_config(cfg: CfgNode) -> None:
    """Add our keys with their defaults.

    The YAML files need DeepLab's keys as well (``add_deeplab_config``, before or after this).

    Args:
        cfg: changed in place.
    """
    _add_input_keys(cfg.INPUT)
    _add_solver_keys(cfg.SOLVER)
    _add_head_keys(cfg.MODEL.SEM_SEG_HEAD)
    cfg.MODEL.MASK_FORMER = _mask_former_keys()
    cfg.MODEL.SWIN = _swin_keys()
    _add_speed_keys(cfg)
    # Ours. True: scales resample the image that the test loader has resized, as published.
    cfg.TEST.AUG.RESIZE_TWICE = True


def _add_input_keys(node: CfgNode) -> None:
    node.DATASET_MAPPER_NAME = "mask_former_semantic"
    node.COLOR_AUG_SSD = False
    # At 1.0 or more, a crop may show a single class.
    node.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # The side to which the mappers pad, not a divisor; 0 or less: no padding.
    node.SIZE_DIVISIBILITY = -1


def _add_solver_keys(node: CfgNode) -> None:
    node.OPTIMIZER = "ADAMW"
    node.BACKBONE_MULTIPLIER = 0.1
    node.WEIGHT_DECAY_EMBED = 0.0


def _add_speed_keys(cfg: CfgNode) -> None:
    """Ours: the same numbers, but for float noise, in less time or memory."""
    cfg.MODEL.COMPILE = False  # backbone and head, by torch.compile
    cfg.MODEL.CHANNELS_LAST = False
    cfg.MODEL.RESNETS.USE_CHECKPOINT = False  # gradient checkpointing, as MODEL.SWIN's
    cfg.SOLVER.AMP.DTYPE = "float16"  # or "bfloat16", of SOLVER.AMP.ENABLED


def _add_head_keys(node: CfgNode) -> None:
    node.PIXEL_DECODER_NAME = "BasePixelDecoder"
    node.TRANSFORMER_ENC_LAYERS = 0
    node.MASK_DIM = 256


def _mask_former_keys() -> CfgNode:
    node = CfgNode()
    # Names in the registries of build.py; the first three keys are not the original's.
    node.MASK_DECODER = "TransformerPredictor"
    node.CRITERION = "SetCriterion"
    node.MATCHER = "bipartite"

    node.DEEP_SUPERVISION = True
    # 0: losses on all pixels, as in the paper; n: losses and costs on n sampled points a mask, of
    # which the second share are the most uncertain among n times the first (PointRend).
    node.TRAIN_NUM_POINTS = 0
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Padded and ignored pixels take part in no cost and no loss, padded ones in no attention.
    node.VALID_MASK = False
    node.NO_OBJECT_WEIGHT = 0.1
    node.DICE_WEIGHT = 1.0
    node.MASK_WEIGHT = 20.0

    node.HIDDEN_DIM = 256
    node.NUM_OBJECT_QUERIES = 100
    node.NHEADS = 8
    node.DROPOUT = 0.1
    node.DIM_FEEDFORWARD = 2048
    node.ENC_LAYERS = 0
    node.DEC_LAYERS = 6
    node.PRE_NORM = False
    node.TRANSFORMER_IN_FEATURE = "res5"
    node.ENFORCE_INPUT_PROJ = False

    # Negative: the backbone's own; 0: pad only to the largest image of the batch.
    node.SIZE_DIVISIBILITY = 32
    node.TEST = CfgNode()
    node.TEST.PANOPTIC_ON = False
    node.TEST.OBJECT_MASK_THRESHOLD = 0.0
    node.TEST.OVERLAP_THRESHOLD = 0.0
    node.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False
    # Ours, beside PANOPTIC_ON: any of the three results in one pass.
    node.TEST.SEMANTIC_ON = True
    node.TEST.INSTANCE_ON = False
    # "marginal" sums over all queries; "general" takes those that panoptic inference keeps.
    node.TEST.SEMANTIC_INFERENCE = "marginal"
    # "scores" are K maps; "labels" is one map of classes, in a fraction of the memory.
    node.TEST.SEM_SEG_OUTPUT = "scores"
    return node


def _swin_keys() -> CfgNode:
    node = CfgNode()
    node.PRETRAIN_IMG_SIZE = 224
    node.PATCH_SIZE = 4
    node.EMBED_DIM = 96
    node.DEPTHS = [2, 2, 6, 2]
    node.NUM_HEADS = [3, 6, 12, 24]
    node.WINDOW_SIZE = 7
    node.MLP_RATIO = 4.0
    node.QKV_BIAS = True
    node.QK_SCALE = None
    node.DROP_RATE = 0.0
    node.ATTN_DROP_RATE = 0.0
    node.DROP_PATH_RATE = 0.3
    node.APE = False
    node.PATCH_NORM = True
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    node.USE_CHECKPOINT = False  # gradient checkpointing; not the original's
    return node


def merge_yaml(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file with its ``_BASE_`` files, as ``cfg.merge_from_file`` does, but safely.

    Args:
        cfg: changed in place.
        path: the file.

    Raises:
        InputError: a file is missing or no YAML, carries a Python tag other than the known list
            of scales, or has a key or a type of value that the configuration does not know.
    """
    contents: dict[str, dict[str, Any]] = {}  # by file, in the order of reading: base files last

    class SafeNode(CfgNode):
        @classmethod
        def _open_cfg(cls, filename: str) -> io.StringIO:
            contents[filename] = _read_yaml(filename)
            return io.StringIO(yaml.safe_dump(contents[filename], sort_keys=False))

    _read_yaml(path)  # Detectron2 itself would only assert that the file is there
    merged = SafeNode(cfg)
    try:
        merged.merge_from_file(path, allow_unsafe=False)
    except InputError:
        raise
    except (AssertionError, KeyError, ValueError) as error:  # how yacs and Detectron2 refuse
        key = _key_named_by(error)
        source = next((f for f, content in contents.items() if key in _keys(content)), path)
        raise InputError(_refusal(cfg, key, source, error)) from error
    plain = type(cfg)(merged)
    cfg.clear()
    cfg.update(plain)


def merge_opts(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Merge ``KEY VALUE`` pairs of the command line.

    Args:
        cfg: changed in place.
        opts: keys and values in turn.

    Raises:
        InputError: a key or a type of value that the configuration does not know, or a key
            without a value.
    """
    if len(opts) % 2:
        raise InputError(f"command line: {opts[-1]!r} has no partner; give KEY VALUE pairs")
    known = set(_keys(cfg))
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key not in known:
            raise InputError(_unknown_key(cfg, key, "command line"))
        try:
            cfg.merge_from_list([key, value])
        except ValueError as error:
            raise InputError(_refusal(cfg, key, "command line", error)) from error


class _SafeLoader(yaml.SafeLoader):
    """A safe loader that also knows the one Python expression of the original's files."""

    def construct_scales(self, node: yaml.Node) -> list[int]:
        values = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        match = _SCALES.fullmatch(str(values[0])) if len(values) == 1 else None
        if match is None:
            problem = f"could not determine a constructor for the tag {node.tag!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        size, start, stop = map(int, match.groups())
        return [int(x * 0.1 * size) for x in range(start, stop)]


_SafeLoader.add_constructor(_SCALES_TAG, _SafeLoader.construct_scales)


def _read_yaml(filename: str) -> dict[str, Any]:
    try:
        with PathManager.open(filename, "r") as file:
            content = yaml.load(file, _SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the configuration {filename}: {error}; give the path of a YAML file "
            "(--config-file, or `_BASE_` in the file that is based on it)"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise InputError(_yaml_problem(filename, error)) from error
    if not isinstance(content, dict):
        raise InputError(f"{filename} holds {content!r}; a configuration is a map of keys")
    return content


def _yaml_problem(filename: str, error: yaml.MarkedYAMLError) -> str:
    place = f"{filename}, line {error.problem_mark.line + 1}" if error.problem_mark else filename
    if not isinstance(error, yaml.constructor.ConstructorError):
        return f"{place}: not valid YAML: {error.problem}"
    return (
        f"{place}: {error.problem}; tags that run code are refused. The only one understood is "
        '!!python/object/apply:eval ["[int(x * 0.1 * N) for x in range(A, B)]"]; write out '
        "anything else as a plain value"
    )


def _keys(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys below a node, inner nodes included."""
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _key_named_by(error: Exception) -> str:
    """The key that a message of yacs names: its last word, as in "... config key: A.B"."""
    return str(error.args[0]).rsplit(" ", 1)[-1]


def _refusal(cfg: CfgNode, key: str, source: str, error: Exception) -> str:
    if isinstance(error, KeyError):
        return _unknown_key(cfg, key, source)
    return f"{source}: {error.args[0]}"


def _unknown_key(cfg: CfgNode, key: str, source: str) -> str:
    known = list(_keys(cfg))
    leaf = key.rpartition(".")[2]
    # A right name in the wrong section is likelier than a wrong name.
    matches = [k for k in known if k.rpartition(".")[2] == leaf][:3]
    matches += difflib.get_close_matches(key, known, n=2, cutoff=0.8)
    hint = f"; did you mean {' or '.join(dict.fromkeys(matches))}?" if matches else ""
    return f"{source}: unknown configuration key {key}{hint}"
