"""The meta-architecture, whole and tiny: results, losses, batches, and that it learns."""

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList, Instances
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.postprocessing import HostReads
from mask_former.d2.build import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_opts
from mask_former.d2.data.dataset_mappers import MaskFormerSemanticDatasetMapper
from mask_former.d2.errors import InputError
from mask_former.functional import banding
from mask_former.functional.semantic import semantic_inference

HEAD, MASK_FORMER = "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
SMALL = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_MEAN": [120.0, 110.0, 100.0],
    "MODEL.PIXEL_STD": [60.0, 50.0, 40.0],
    "MODEL.BACKBONE.NAME": "build_tiny_resnet_backbone",
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    f"{HEAD}.NAME": "MaskFormerHead",
    f"{HEAD}.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    f"{HEAD}.NUM_CLASSES": 3,
    f"{HEAD}.CONVS_DIM": 32,
    f"{HEAD}.MASK_DIM": 32,
    f"{MASK_FORMER}.HIDDEN_DIM": 32,
    f"{MASK_FORMER}.DIM_FEEDFORWARD": 64,
    f"{MASK_FORMER}.DROPOUT": 0.0,
    f"{MASK_FORMER}.DEC_LAYERS": 2,
    f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 8,
}
BASELINE = {"MODEL.META_ARCHITECTURE": "SemanticSegmentor", f"{HEAD}.NAME": "PerPixelBaselineHead"}
PLUS = {
    **BASELINE,
    f"{HEAD}.NAME": "PerPixelBaselinePlusHead",
    f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 3,
}
FIXED = {f"{MASK_FORMER}.MATCHER": "fixed", f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 3}
ENCODER = {
    f"{HEAD}.PIXEL_DECODER_NAME": "TransformerEncoderPixelDecoder",
    f"{HEAD}.TRANSFORMER_ENC_LAYERS": 1,
    f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "transformer_encoder",
}


def make_model(options=None):
    cfg = get_mask_former_cfg()
    merge_opts(cfg, [part for option in (SMALL | (options or {})).items() for part in option])
    torch.manual_seed(0)
    return build_model(cfg)


def image(*size, seed=0, **entries):
    """An input of the given height and width, with more entries."""
    g = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, *size), generator=g), **entries}


def sample(height, width, labels, seed=0):
    """An image in vertical stripes, one for each label; colour tells the class."""
    sem_seg = torch.full((height, width), 255)
    for i, label in enumerate(labels):
        sem_seg[:, i * width // len(labels) : (i + 1) * width // len(labels)] = label
    masks = torch.stack([sem_seg == label for label in labels]) if labels else None
    instances = Instances(
        (height, width),
        gt_classes=torch.tensor(labels, dtype=torch.int64),
        gt_masks=torch.zeros(0, height, width, dtype=torch.bool) if masks is None else masks,
    )
    colours = torch.tensor([[230, 20, 20], [20, 230, 20], [20, 20, 230]])
    pixels = colours[sem_seg.clamp(max=2)].permute(2, 0, 1)
    noise = torch.randint(-15, 16, pixels.shape, generator=torch.Generator().manual_seed(seed))
    return {"image": pixels + noise, "instances": instances, "sem_seg": sem_seg}


@pytest.fixture
def one_thread():
    """Threads that wait for each other make so small a model slower where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("options", [{}, ENCODER, BASELINE, PLUS])
@torch.no_grad()
def test_results_have_the_size_that_is_asked_for(options):
    model = make_model(options).eval()
    results = model([image(37, 50), image(64, 33, height=20, width=71)])
    assert [tuple(r["sem_seg"].shape) for r in results] == [(3, 37, 50), (3, 20, 71)]
    assert all(r["sem_seg"].isfinite().all() for r in results)


@pytest.mark.parametrize("options", [{}, ENCODER, BASELINE, PLUS])
@torch.no_grad()
def test_a_batch_is_its_images_singly(options):
    """With equal sizes; with different ones the padding takes part, as in the original."""
    model = make_model(options).eval()
    batch = [image(64, 96, seed=i) for i in range(3)]
    together = model(batch)
    for x, result in zip(batch, together, strict=True):
        (alone,) = model([x])
        torch.testing.assert_close(result["sem_seg"], alone["sem_seg"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("divisor", "padded"), [(32, (64, 96)), (0, (60, 70)), (16, (64, 80)), (-1, (60, 70))]
)
@torch.no_grad()
def test_images_are_normalised_then_padded_with_zero(divisor, padded):
    model = make_model({f"{MASK_FORMER}.SIZE_DIVISIBILITY": divisor}).eval()
    batch, seen = [image(60, 50), image(40, 70)], []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(batch)
    (tensor,) = seen
    assert tuple(tensor.shape) == (2, 3, *padded)
    mean, std = torch.tensor([120.0, 110, 100]), torch.tensor([60.0, 50, 40])
    for x, (height, width), found in zip(batch, [(60, 50), (40, 70)], tensor, strict=True):
        expected = torch.zeros(3, *padded)
        for channel in range(3):
            pixels = (x["image"][channel] - mean[channel]) / std[channel]
            expected[channel, :height, :width] = pixels
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("masks_first", [False, True])
@torch.no_grad()
def test_semantic_scores_step_by_step(masks_first):
    """Spec 4.4: resized before the scores are formed, or after."""
    key = f"{MASK_FORMER}.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE"
    model = make_model({key: masks_first}).eval()
    x = image(40, 50, height=30, width=45)
    (result,) = model([x])

    def resize(maps, size):
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]

    images = ImageList.from_tensors([(x["image"] - model.pixel_mean) / model.pixel_std], 32)
    prediction = model.sem_seg_head(model.backbone(images.tensor))
    class_logits = prediction.class_logits[-1, 0]
    logits = resize(prediction.mask_logits()[0], (64, 64))
    if masks_first:
        logits = resize(logits[:, :40, :50], (30, 45))
        expected = semantic_inference(class_logits, logits)
    else:
        scores = semantic_inference(class_logits, logits)
        expected = resize(scores[:, :40, :50], (30, 45))
    torch.testing.assert_close(result["sem_seg"], expected)


@pytest.mark.parametrize("kind", ["marginal", "general"])
@torch.no_grad()
def test_labels_are_those_of_the_scores(kind):
    x = image(40, 50, height=30, width=45)
    options = {f"{MASK_FORMER}.TEST.SEMANTIC_INFERENCE": kind}
    (scores,) = make_model(options).eval()([x])
    options[f"{MASK_FORMER}.TEST.SEM_SEG_OUTPUT"] = "labels"
    (labels,) = make_model(options).eval()([x])
    assert torch.equal(labels["sem_seg"], scores["sem_seg"].argmax(0))


@torch.no_grad()
def test_scores_under_autocast_keep_single_precision():
    model, x = make_model().eval(), image(64, 64)
    (expected,) = model([x])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = model([x])
    assert found["sem_seg"].dtype == torch.float32
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], rtol=0.1, atol=0.1)


@torch.no_grad()
def test_evaluation_forms_no_auxiliary_masks():
    """One set of masks, whatever the number of decoder layers."""
    few, many = (
        flops(make_model({f"{MASK_FORMER}.DEC_LAYERS": layers}), image(64, 64)) for layers in (2, 5)
    )
    assert few["convolution"] == many["convolution"]
    # What three more layers add is attention alone: each far less than a product of masks.
    mask_product = 2 * 8 * 32 * 16 * 16  # queries, channels, pixels at stride 4
    assert many["bmm"] - few["bmm"] < mask_product


@torch.no_grad()
def test_features_are_freed_as_they_are_used():
    model, seen, held = make_model().eval(), {}, []

    def find(_, args, features):
        seen.update({name: weakref.ref(x) for name, x in features.items()})

    def note(*_):
        held.append([name for name, x in seen.items() if x() is not None])

    model.backbone.register_forward_hook(find)
    decoder = model.sem_seg_head.pixel_decoder
    decoder.layer_2.register_forward_pre_hook(note)
    decoder.layer_1.register_forward_pre_hook(note)
    model([image(64, 64)])
    assert held == [["res2", "res5"], ["res5"]]


def flops(model, *inputs):
    """Of an evaluation, by the kind of operator."""
    with FlopCounterMode(display=False) as counter:
        model.eval().requires_grad_(False)(list(inputs))
    counts = counter.get_flop_counts()["Global"].items()
    return {
        kind: sum(n for op, n in counts if kind in str(op)) for kind in ("bmm", "convolution", "mm")
    }


@torch.no_grad()
def test_evaluation_forms_no_embeddings():
    """The last convolution has as many outputs as there are queries, not channels."""
    counts = {}
    for queries in (8, 24):
        model = make_model({f"{MASK_FORMER}.NUM_OBJECT_QUERIES": queries})
        counts[queries] = flops(model, image(64, 64))["convolution"]
    per_output = 2 * 32 * 9 * 16 * 16
    assert counts[24] - counts[8] == (24 - 8) * per_output
    model.sem_seg_head.last_convolution = lambda: None
    assert flops(model, image(64, 64))["convolution"] - counts[24] == (32 - 24) * per_output


@torch.no_grad()
@pytest.mark.parametrize("valid_mask", [False, True])
@pytest.mark.parametrize("queries", [8, 40])  # less than the channels of the embedding, and more
@pytest.mark.parametrize("semantic", [False, True])
def test_results_without_embeddings_are_those_with_them(valid_mask, queries, semantic):
    keys = {"PANOPTIC_ON": True, "INSTANCE_ON": True, "SEMANTIC_ON": semantic}
    model = make_model(
        {f"{MASK_FORMER}.TEST.{key}": value for key, value in keys.items()}
        | {f"{MASK_FORMER}.NUM_OBJECT_QUERIES": queries, f"{MASK_FORMER}.VALID_MASK": valid_mask}
        | {"DATASETS.TRAIN": "('shapes_panoptic_train',)", f"{HEAD}.NUM_CLASSES": 7}
    )
    model.double().eval()
    model.sem_seg_head.predictor.class_embed.bias[-1] = -5.0  # "no object"
    inputs = [image(50, 64, seed=1), image(64, 37, seed=2, height=80, width=61)]
    direct = model(inputs)
    model.sem_seg_head.last_convolution = lambda: None
    for mine, expected in zip(direct, model(inputs), strict=True):
        assert ("sem_seg" in mine) == semantic
        if semantic:
            torch.testing.assert_close(mine["sem_seg"], expected["sem_seg"])
        ids, segments = mine["panoptic_seg"]
        assert torch.equal(ids, expected["panoptic_seg"][0])
        assert len(segments) == len(expected["panoptic_seg"][1]) > 0
        assert torch.equal(mine["instances"].pred_masks, expected["instances"].pred_masks)
        torch.testing.assert_close(mine["instances"].scores, expected["instances"].scores)


@torch.no_grad()
def test_all_results_of_an_image_wait_once_for_the_device(monkeypatch):
    monkeypatch.setattr(banding, "reading_is_free", lambda _: False)
    keys = {f"{MASK_FORMER}.TEST.{kind}_ON": True for kind in ("SEMANTIC", "PANOPTIC", "INSTANCE")}
    things = {"DATASETS.TRAIN": "('shapes_panoptic_train',)", f"{HEAD}.NUM_CLASSES": 7}
    model = make_model(keys | things).eval()
    with HostReads() as reads:
        results = model([image(50, 64), image(64, 37)])
    assert [set(result) for result in results] == 2 * [{"sem_seg", "panoptic_seg", "instances"}]
    assert reads.count == len(results)


def test_losses_have_the_names_of_the_field():
    losses = make_model({f"{MASK_FORMER}.DEC_LAYERS": 3}).train()([sample(64, 64, [0, 2])])
    names = {
        f"loss_{kind}{suffix}" for kind in ("ce", "mask", "dice") for suffix in ("", "_0", "_1")
    }
    assert losses.keys() == names
    single = make_model({f"{MASK_FORMER}.DEEP_SUPERVISION": False}).train()
    assert single([sample(64, 64, [0])]).keys() == {"loss_ce", "loss_mask", "loss_dice"}


def test_targets_are_padded_as_the_images_are():
    model, seen = make_model().train(), []
    model.criterion.register_forward_pre_hook(lambda _, args: seen.extend(args[1]))
    model([sample(40, 50, [0, 2]), sample(64, 33, [1])])
    assert [tuple(t.masks.shape) for t in seen] == [(2, 64, 64), (1, 64, 64)]
    assert seen[0].labels.tolist() == [0, 2]
    assert torch.equal(seen[0].masks[:, :40, :50], sample(40, 50, [0, 2])["instances"].gt_masks)
    assert not seen[0].masks[:, 40:].any()
    assert not seen[0].masks[:, :, 50:].any()


@pytest.mark.parametrize("options", [{}, ENCODER, FIXED, BASELINE, PLUS])
def test_a_step_without_targets_gives_finite_gradients_for_all(options):
    model = make_model(options).train()
    sum(model([sample(64, 64, []), sample(64, 64, [])]).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_training_without_instances_is_refused():
    with pytest.raises(InputError, match=r"a\.png has no 'instances'"):
        make_model().train()([image(64, 64, file_name="a.png")])


@pytest.mark.parametrize("options", [{}, ENCODER, FIXED, BASELINE, PLUS])
@pytest.mark.usefixtures("one_thread")
def test_it_learns_two_images(options):
    model = make_model(options).train()
    batch = [sample(64, 64, [0, 2]), sample(64, 64, [1, 0, 2], seed=1)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    first, loss = None, None
    for _ in range(40):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first = first or float(loss.detach())
    assert float(loss.detach()) < 0.5 * first
    with torch.no_grad():
        results = model.eval()(batch)
    right = [
        (r["sem_seg"].argmax(0) == x["sem_seg"]).float().mean()
        for r, x in zip(results, batch, strict=True)
    ]
    assert min(right) > 0.9


def test_what_the_state_dict_holds():
    model = make_model()
    state = model.state_dict()
    assert state._metadata["sem_seg_head"]["version"] == 2
    assert not any(key.startswith("pixel_") for key in state)
    assert list(state)[-1] == "criterion.empty_weight"
    assert [name for name, _ in model.named_children()] == ["backbone", "sem_seg_head", "criterion"]


def test_a_checkpoint_of_version_1_loads_into_the_model():
    source, model = make_model(), make_model(ENCODER | {"MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0]})
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    old = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): value
        for key, value in source.state_dict().items()
    }
    target = make_model()
    result = target.load_state_dict(old)
    assert result.missing_keys == result.unexpected_keys == []
    key = "sem_seg_head.pixel_decoder.mask_features.weight"
    assert torch.equal(target.state_dict()[key], source.state_dict()[key])
    with pytest.raises(RuntimeError, match=r"transformer\.encoder"):
        model.load_state_dict(old)


def test_the_device_and_the_output_shapes_of_the_backbone():
    model = make_model()
    assert model.device == torch.device("cpu")
    assert model.backbone.output_shape()["res5"] == ShapeSpec(channels=256, stride=32)


VALID = {f"{MASK_FORMER}.VALID_MASK": True}
POINTS = {f"{MASK_FORMER}.TRAIN_NUM_POINTS": 60}


def padded_sample():
    """64 x 96 pixels, of which a mapper has added those beyond 50 x 70; a corner is ignored."""
    x = sample(64, 96, [0, 2])
    x["valid"] = torch.zeros(64, 96, dtype=torch.bool)
    x["valid"][:50, :70] = True
    x["valid"][:20, :30] = False
    x["instances"].gt_masks &= x["valid"]
    return {**x, "image_size": (50, 70)}


def losses_of(model, batch):
    torch.manual_seed(0)
    return {name: float(loss) for name, loss in model(batch).items()}


def changed(x, where):
    """The sample with random masks in some pixels."""
    instances = x["instances"]
    random = torch.rand(instances.gt_masks.shape) < 0.5
    masks = torch.where(where, random, instances.gt_masks)
    classes = instances.gt_classes
    return {**x, "instances": Instances(masks.shape[-2:], gt_classes=classes, gt_masks=masks)}


@pytest.mark.parametrize("options", [{}, POINTS, FIXED, ENCODER])
@torch.no_grad()
def test_what_targets_say_of_padded_and_ignored_pixels_changes_no_loss(options):
    model = make_model(options | VALID).train()
    # The image beside it is larger, so that the batch adds padding.
    x, beside = padded_sample(), sample(80, 100, [1, 0])
    expected = losses_of(model, [x, beside])
    for _ in range(3):
        assert losses_of(model, [changed(x, ~x["valid"]), beside]) == expected
    beyond = torch.ones(64, 96, dtype=torch.bool)
    beyond[:50, :70] = False
    assert losses_of(model, [{**x, "valid": x["valid"] | beyond}, beside]) == expected
    assert losses_of(model, [changed(x, x["valid"]), beside]) != expected
    assert losses_of(make_model(options).train(), [x, beside]) != expected


@pytest.mark.parametrize("options", [{}, POINTS, ENCODER])
@torch.no_grad()
def test_nothing_changes_where_nothing_is_padded_or_ignored(options):
    batch = [sample(64, 96, [0, 2]), sample(64, 96, [1])]
    expected = losses_of(make_model(options).train(), batch)
    found = losses_of(make_model(options | VALID).train(), batch)
    assert found == pytest.approx(expected, rel=1e-5)
    (result,) = make_model(options).eval()(batch[:1])
    (valid,) = make_model(options | VALID).eval()(batch[:1])
    assert torch.equal(result["sem_seg"], valid["sem_seg"])


@torch.no_grad()
def test_valid_pixels_are_off_by_default():
    model, seen = make_model().train(), []
    model.sem_seg_head.register_forward_pre_hook(lambda _, args: seen.append(args))
    model.criterion.register_forward_pre_hook(lambda _, args: seen.append(args))
    x = padded_sample()
    losses = losses_of(model, [x])
    (features,), (_, (target,)) = seen
    assert isinstance(features, dict)
    assert target.valid is target.size is None
    del x["valid"], x["image_size"]
    assert losses_of(model, [x]) == losses
    assert make_model(VALID).state_dict().keys() == model.state_dict().keys()


def test_the_padding_of_a_mapper_is_known_to_the_model(tmp_path):
    """The side that INPUT.SIZE_DIVISIBILITY names, then the batch, then what is not labelled."""
    labels = np.full((40, 30), 1, np.uint8)
    labels[:10] = 255
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    mapper = MaskFormerSemanticDatasetMapper(
        augmentations=[], image_format="RGB", ignore_label=255, size_divisibility=48
    )
    names = {"file_name": "image.png", "sem_seg_file_name": "labels.png"}
    x = mapper({key: str(tmp_path / name) for key, name in names.items()})
    model, seen = make_model(VALID).train(), []
    model.sem_seg_head.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    model.criterion.register_forward_pre_hook(lambda _, args: seen.append(args[1]))

    losses = model([x, sample(64, 40, [0])])

    padding, (target, other) = seen
    assert padding == ([(40, 30), (64, 40)], (64, 64))
    assert target.size == (40, 30)
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[10:40, :30] = True
    assert torch.equal(target.valid, expected)
    assert other.size == (64, 40)
    assert other.valid.sum() == 64 * 40
    assert all(loss.isfinite() for loss in losses.values())


@torch.no_grad()
def test_padded_cells_of_the_pixel_embeddings_reach_no_result():
    model = make_model(VALID).eval()
    model.sem_seg_head.last_convolution = lambda: None  # a convolution would see them
    batch = [image(40, 50), image(64, 90, height=30, width=45)]
    expected = model(batch)

    def disturb(_, args, prediction):
        pixel_embed = prediction.pixel_embed.clone()
        assert pixel_embed.shape[-2:] == (16, 24)
        pixel_embed[0, :, 10:] = pixel_embed[0, :, :, 13:] = torch.nan
        pixel_embed[1, :, :, 23:] = torch.nan
        return prediction._replace(pixel_embed=pixel_embed)

    model.sem_seg_head.register_forward_hook(disturb)
    for found, result in zip(model(batch), expected, strict=True):
        assert torch.equal(found["sem_seg"], result["sem_seg"])


@torch.no_grad()
def test_padded_cells_of_the_features_reach_no_query():
    model, seen = make_model(VALID).eval(), []
    batch = [image(40, 50), image(64, 90)]

    def disturb(_, args, features):
        assert features["res5"].shape[-2:] == (2, 3)
        res5 = features["res5"].clone()
        res5[0, :, :, 2:] = 1e6
        return {**features, "res5": res5}

    model.sem_seg_head.register_forward_hook(lambda _, args, prediction: seen.append(prediction))
    model(batch)
    model.backbone.register_forward_hook(disturb)
    model(batch)
    expected, found = seen
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.mask_embed, expected.mask_embed)
    # Convolutions do see them.
    assert not torch.equal(found.pixel_embed[0, :, :10, :13], expected.pixel_embed[0, :, :10, :13])
