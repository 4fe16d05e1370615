"""The meta-architecture, whole and tiny: results, losses, batches, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList

from mask_former.d2.errors import InputError
from mask_former.functional.semantic import semantic_inference
from mask_former.modeling.head import MaskFormerHead
from tests.d2.tiny_models import (
    BASELINE,
    FIXED,
    HEAD,
    MASK_FORMER,
    PLUS,
    WITH_ENCODER,
    image,
    make_model,
    sample,
)


@pytest.fixture
def one_thread():
    """Threads that wait for each other make so small a model slower where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("options", [{}, WITH_ENCODER, BASELINE, PLUS])
@torch.no_grad()
def test_results_have_the_size_that_is_asked_for(options):
    model = make_model(options).eval()
    results = model([image(37, 50), image(64, 33, height=20, width=71)])
    assert [tuple(r["sem_seg"].shape) for r in results] == [(3, 37, 50), (3, 20, 71)]
    assert all(r["sem_seg"].isfinite().all() for r in results)


@pytest.mark.parametrize("options", [{}, WITH_ENCODER, BASELINE, PLUS])
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
    """Section 3.4; the masks are resized before the scores are formed, or the scores after."""
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


@pytest.mark.parametrize("options", [{}, WITH_ENCODER, FIXED, BASELINE, PLUS])
def test_a_step_without_targets_gives_finite_gradients_for_all(options):
    """What is left is the class of the queries that find nothing, where there are such queries."""
    model = make_model(options).train()
    losses = model([sample(64, 64, []), sample(64, 64, [])])
    classes = {name for name, loss in losses.items() if float(loss.detach()) > 0}
    assert classes == {name for name in losses if name.startswith("loss_ce")}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_training_without_instances_is_refused():
    with pytest.raises(InputError, match=r"a\.png has no 'instances'"):
        make_model().train()([image(64, 64, file_name="a.png")])


@pytest.mark.parametrize("options", [{}, WITH_ENCODER, FIXED, BASELINE, PLUS])
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
    source, model = make_model(), make_model(WITH_ENCODER | {"MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0]})
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


class DictHead(MaskFormerHead):
    """A head of another project, whose output is the field's dict."""

    def forward(self, features):
        prediction = super().forward(features)
        layers = [
            {"pred_logits": prediction.class_logits[i], "pred_masks": prediction.mask_logits(i)}
            for i in range(len(prediction.class_logits))
        ]
        return {**layers[-1], "aux_outputs": layers[:-1]}


def test_a_head_that_gives_the_fields_dict_trains_and_evaluates():
    keys = {f"{MASK_FORMER}.TEST.{kind}_ON": True for kind in ("PANOPTIC", "INSTANCE")}
    things = {"DATASETS.TRAIN": "('shapes_panoptic_train',)", f"{HEAD}.NUM_CLASSES": 7}
    model = make_model(keys | things).double()
    batch = [sample(64, 96, [0, 2], seed=0), sample(50, 70, [1], seed=1)]
    expected = model(batch)
    plain = model.eval()(batch)
    model.sem_seg_head.__class__ = DictHead
    found = model.train()(batch)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)
    sum(found.values()).backward()
    assert model.sem_seg_head.pixel_decoder.mask_features.weight.grad.abs().sum() > 0
    for ours, theirs in zip(model.eval()(batch), plain, strict=True):
        torch.testing.assert_close(ours["sem_seg"], theirs["sem_seg"])
        assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
        assert torch.equal(ours["instances"].pred_masks, theirs["instances"].pred_masks)


def test_no_images_give_no_results():
    assert make_model().eval()([]) == []
