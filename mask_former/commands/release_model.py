"""Makes of a training what a model hub takes: weights alone, configuration and model card.

    mask_former release output/my_run release/my_model --license cc-by-4.0

RUN is the OUTPUT_DIR of a training, or one of its checkpoints. In OUTPUT there are then
model.safetensors, which carries configuration and classes as a checkpoint does and is loaded as one
is (MODEL.WEIGHTS, load_predictor, `mask_former demo --weights`), config.yaml and README.md. Of
paths only the last part is kept, and nothing of the machine.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from ..d2.build.image_models import backbone_and_weights
from ..d2.checkpoint import average_weights
from ..d2.data.preparing import replacing, telling_errors
from ..d2.errors import InputError
from ..d2.run.files import json_lines
from ..d2.weights.reading import RECORD_KEY, read_weights
from ..d2.weights.record import ModelRecord
from ..d2.weights.zoo import zoo_config

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"
PUBLIC = "detectron2://"  # addresses that are the same for everybody
NO_PATHS = (("TEST", "BEST_METRIC"), ("SOLVER", "FREEZE"))
HUB_METRICS = {"mIoU": "mean_iou", "PQ": "panoptic_quality", "AP": "mean_average_precision"}
ZOO_LICENSE = "cc-by-nc-4.0"

Config = dict[str, Any]
Metrics = dict[str, float]


class Release(NamedTuple):
    """What is published, and what the card tells of it."""

    name: str
    model: dict[str, torch.Tensor]
    record: ModelRecord
    """Without paths."""
    config: Config
    metrics: Metrics
    """In per cent, by the keys of metrics.json."""
    iterations: int | None
    license: str


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="OUTPUT_DIR of a training, or a checkpoint in it")
    add("output", type=Path, metavar="OUTPUT", help="folder to write")
    add("--license", metavar="ID", help="of the weights, as hubs name it, such as cc-by-4.0")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the run, leaves out what is private, writes three files."""
    args = parse_args(argv)
    with telling_errors():
        release = read_release(find_checkpoint(args.run, args.output), args.output, args.license)
        args.output.mkdir(parents=True, exist_ok=True)
        write_weights(release, args.output / WEIGHTS)
        for name, text in ((CONFIG, release.record.config), (CARD, card(release))):
            with replacing(args.output / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    size = (args.output / WEIGHTS).stat().st_size / 1e6
    print(f"{args.output}: {WEIGHTS} ({size:.1f} MB), {CONFIG}, {CARD}")
    if args.license is None:
        print(f"The card says license: {release.license}; --license says another")


def find_checkpoint(run: Path, output: Path) -> Path:
    """The file of a run that is to be published: the named one, or the last.

    Raises:
        InputError: there is none, or the release would overwrite files of the run.
    """
    file = run if run.is_file() else run / "model_final.pth"
    if not file.is_file():
        raise InputError(
            f"{run} has no model_final.pth; name the OUTPUT_DIR of a training that has ended, or "
            "one of its checkpoints"
        )
    if output.resolve() == file.parent.resolve():
        raise InputError(f"{output} is the run, whose {CONFIG} would be replaced; name another")
    if (output / CARD).exists() and not (output / WEIGHTS).exists():
        raise InputError(f"{output} has a {CARD} of something else; name a folder for the release")
    return file


def read_release(file: Path, output: Path, license_id: str | None) -> Release:
    """What a checkpoint and the metrics beside it give; where it has an average, that is released.

    Raises:
        InputError: the file is no checkpoint of ours, or says nothing of its model.
    """
    checkpoint = read_weights(str(file))
    if RECORD_KEY not in checkpoint:
        raise InputError(
            f"{file} does not carry its configuration; `mask_former train --resume --config-file "
            f"{file.parent / CONFIG}` saves the model of a run that has ended once more, with it"
        )
    record = ModelRecord.parse(checkpoint[RECORD_KEY], str(file))
    config = without_private(yaml.safe_load(record.config))
    config["OUTPUT_DIR"], config["MODEL"]["DEVICE"] = "output", "cuda"
    record = record._replace(config=yaml.safe_dump(config))
    iteration = checkpoint.get("iteration")
    average = average_weights(checkpoint)
    weights = checkpoint["model"] if average is None else average
    metrics = read_metrics(file.parent / "metrics.json", iteration, average is not None)
    started = ZOO_LICENSE if zoo_config(config["MODEL"]["WEIGHTS"]) else "unknown"
    return Release(
        output.resolve().name,
        {name: torch.as_tensor(value) for name, value in weights.items()},
        record,
        config,
        metrics,
        None if iteration is None else iteration + 1,
        license_id or started,
    )


def without_private(config: Config) -> Config:
    """The same configuration without paths; what looks like one and is none stays whole."""
    public = without_paths(config)
    for section, key in NO_PATHS:
        if key in config.get(section, {}):
            public[section][key] = config[section][key]
    return public


def without_paths(value: Any) -> Any:
    """The same configuration, in which paths and addresses are their last parts."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if not isinstance(value, str) or value.startswith(PUBLIC):
        return value
    name = value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "" if name.startswith("~") else name


def read_metrics(path: Path, iteration: int | None, of_average: bool) -> Metrics:
    """The evaluation of the checkpoint of an iteration; none if it was not evaluated.

    Args:
        path: metrics.json.
        iteration: the last of the checkpoint.
        of_average: whether the results of the weights' moving average are asked for.
    """
    metrics: Metrics = {}
    if iteration is None or not path.is_file():
        return metrics
    for line in json_lines(path):
        if line["iteration"] in (iteration, iteration + 1):  # the last comes after the training
            metrics |= {k: v for k, v in line.items() if "/" in k and math.isfinite(v)}
    return {
        key.replace("_EMA/", "/"): value
        for key, value in metrics.items()
        if ("_EMA/" in key) == of_average
    }


def write_weights(release: Release, path: Path) -> None:
    """The weights with the record in their header, where ``read_weights`` looks for it."""
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise InputError(
            f"writing {path} needs safetensors; install it with `pip install safetensors`, or "
            "mask_former with its extra: release"
        ) from error
    header = {"format": "pt", RECORD_KEY: json.dumps(release.record.state_dict())}
    tensors = {name: tensor.clone().contiguous() for name, tensor in release.model.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, header))


def card(release: Release) -> str:
    """The model card: metadata between dashes, which hubs read, then what people read."""
    front = yaml.safe_dump(front_matter(release), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n\n# {release.name}",
        description(release),
        "## Use\n\n" + usage(),
        "## Classes\n\n" + class_table(release),
        "## Results\n\n" + result_table(release),
        "## Licence\n\n" + licence_lines(release),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(release: Release) -> dict[str, Any]:
    """What hubs search by."""
    data = release.config["DATASETS"]
    found = {
        key: HUB_METRICS[leaf] for key in release.metrics if (leaf := last(key)) in HUB_METRICS
    }
    front: dict[str, Any] = {
        "license": release.license,
        "library_name": "mask_former",
        "pipeline_tag": "image-segmentation",
        "tags": ["mask_former", "detectron2", *(f"{task}-segmentation" for task in tasks(release))],
        "datasets": [*data["TRAIN"]],
        "metrics": sorted(set(found.values())),
    }
    if found:
        result = {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": ", ".join(data["TEST"]), "type": data["TEST"][0]},
            "metrics": [
                {"type": kind, "name": key, "value": round(release.metrics[key], 2)}
                for key, kind in found.items()
            ],
        }
        front["model-index"] = [{"name": release.name, "results": [result]}]
    return front


def tasks(release: Release) -> list[str]:
    """The results that the model gives."""
    if release.config["MODEL"]["META_ARCHITECTURE"] == "SemanticSegmentor":
        return ["semantic"]
    test = release.config["MODEL"]["MASK_FORMER"]["TEST"]
    return [task for task in ("semantic", "panoptic", "instance") if test[f"{task.upper()}_ON"]]


def description(release: Release) -> str:
    """Data, model and training in a paragraph, and the command."""
    model, solver, data = (release.config[key] for key in ("MODEL", "SOLVER", "DATASETS"))
    backbone, weights = backbone_and_weights(model)
    start = f"from `{weights}`" if weights else "from random weights"
    count = f"{sum(tensor.numel() for tensor in release.model.values()):,}"
    length = "" if release.iterations is None else f" {release.iterations:,} iterations of"
    return (
        f"A model for {' and '.join(tasks(release))} segmentation ({model['META_ARCHITECTURE']}, "
        f"{model['SEM_SEG_HEAD']['NAME']}, {backbone}; {count} numbers), trained "
        f"{start} on `{', '.join(data['TRAIN'])}` with{length} {solver['IMS_PER_BATCH']} pictures "
        f"by mask_former {release.record.version}:\n\n"
        f"```\nmask_former train --config-file {CONFIG}\n```"
    )


def usage() -> str:
    """How the file is used, alone."""
    return (
        f"```\nmask_former demo --weights {WEIGHTS} --input 'photos/*.jpg' --output results\n"
        "```\n\n```python\nimport cv2\nfrom mask_former.d2.predictor import load_predictor\n\n"
        f'predictor = load_predictor("{WEIGHTS}")\n'
        'result = predictor(cv2.imread("photo.jpg"))\n```'
    )


def class_table(release: Release) -> str:
    """A row for each class; with its IoU, where one test set has them."""
    if not release.record.classes:
        return "The data set of the training has no names for its classes."
    rows = ["| id | class | kind | colour | IoU |", "| ---: | --- | --- | --- | ---: |"]
    for i, entry in enumerate(release.record.classes):
        kind = {True: "thing", False: "stuff", None: ""}[entry.get("isthing")]
        color = "#" + bytes(entry["color"]).hex() if "color" in entry else ""
        iou = release.metrics.get(f"sem_seg/IoU-{entry['name']}")
        shown = "" if iou is None else f"{iou:.1f}"
        rows.append(f"| {i} | {entry['name'].replace('|', '/')} | {kind} | {color} | {shown} |")
    return "\n".join(rows)


def result_table(release: Release) -> str:
    """All measures but those of single classes."""
    rows = [
        f"| {key} | {value:.2f} |" for key, value in release.metrics.items() if "-" not in last(key)
    ]
    if not rows:
        return "This checkpoint was not evaluated."
    data = ", ".join(release.config["DATASETS"]["TEST"])
    return "\n".join(
        [f"On `{data}`, in per cent:\n", "| measure | value |", "| --- | ---: |", *rows]
    )


def licence_lines(release: Release) -> str:
    """Whose terms hold."""
    start, data = release.config["MODEL"]["WEIGHTS"], ", ".join(release.config["DATASETS"]["TRAIN"])
    lines = [
        f"- These weights: {release.license}.",
        f"- The training data, `{data}`, have terms of their own.",
        "- The code of mask_former: Apache-2.0.",
    ]
    if zoo_config(start):
        lines.insert(
            1, f"- Trained from `{start}`, published under CC BY-NC 4.0: not commercially."
        )
    elif start:
        lines.insert(1, f"- Trained from `{start}`, which has terms of its own.")
    return "\n".join(lines)


def last(key: str) -> str:
    """The measure alone, of a key with test set and kind before it."""
    return key.rpartition("/")[2]
