"""Random cases of semantic and panoptic inference, and what more than one file of tests expects."""

import torch

CLASS_LOGITS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
MASK_LOGITS = torch.tensor(
    [[[2.0, -2.0], [2.0, -2.0]], [[-1.0, 1.0], [-1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
)


def random_case(seed):
    """Blob-like masks of a few sizes; every seed another mixture of confident and vague queries."""
    g = torch.Generator().manual_seed(seed)
    queries, classes = (
        int(torch.randint(1, 9, (), generator=g)),
        int(torch.randint(1, 5, (), generator=g)),
    )
    h, w = (int(x) for x in torch.randint(1, 8, (2,), generator=g))
    sharpness = (0.5, 3.0, 8.0)[seed % 3]
    class_logits = sharpness * torch.randn(queries, classes + 1, generator=g)
    mask_logits = 3 * torch.randn(queries, h, w, generator=g)
    if seed % 5 == 0:  # ties, of values whose sigmoid is exact: its last bit depends on the layout
        mask_logits = 200 * mask_logits.sign()
        mask_logits[mask_logits[0].expand_as(mask_logits) > 0] = 0
        class_logits[queries // 2 :] = class_logits[: queries - queries // 2].clone()
        mask_logits[queries // 2 :] = mask_logits[: queries - queries // 2].clone()
    if seed % 7 == 0:  # masks that are nowhere likely
        mask_logits = -mask_logits.abs()
    things = {c for c in range(classes) if torch.rand((), generator=g) < 0.5}
    thresholds = ((0.0, 0.0), (0.4, 0.5), (0.8, 0.8), (0.3, 1.0))[seed % 4]
    return class_logits, mask_logits, things, *thresholds


def embedded_case(seed):
    """Embeddings, geometry and thresholds, in double precision; a third without a second resize."""
    g = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high + 1, (), generator=g))

    class_logits, _, things, *thresholds = random_case(seed)
    h, w = integer(1, 5), integer(1, 5)
    padded = (4 * h, 4 * w)
    size = (integer(1, padded[0]), integer(1, padded[1]))
    output = (integer(1, 24), integer(1, 24)) if seed % 3 else size
    mask_embed = torch.randn(len(class_logits), 3, generator=g, dtype=torch.float64)
    embeds = (mask_embed, 3 * torch.randn(3, h, w, generator=g, dtype=torch.float64))
    return class_logits.double(), embeds, (padded, size, output), things, thresholds


def slow_general(class_logits, mask_logits, object_threshold, overlap_threshold):
    """Keeps the queries that own a segment when every class is a thing; then the plain maximum."""
    classes = class_logits.shape[1] - 1
    scores = torch.zeros(classes, *mask_logits.shape[1:])
    no_object = classes
    candidates = []
    for z, m in zip(class_logits.softmax(1), mask_logits.sigmoid(), strict=True):
        if int(z.argmax()) != no_object and z.max() > object_threshold:
            candidates.append((int(z.argmax()), z.max() * m, m))
    for k, (label, weighted, mask) in enumerate(candidates):
        owned = torch.ones_like(mask, dtype=torch.bool)
        for j, (_, other, _) in enumerate(candidates):
            owned &= (weighted > other) if j < k else (weighted >= other)
        original = int((mask >= 0.5).sum())
        area = int(owned.sum())
        if area and original and area / original >= overlap_threshold:
            scores[label] = torch.maximum(scores[label], weighted)
    return scores
