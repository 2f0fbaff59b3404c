"""Scenes of glyphs are what they are said to be."""
import numpy as np
import pytest
import torch

from crp.pictures.kinds import vis_inputs
from crp.truth import GLYPHS, GlyphEmbedder, add_mark, auroc, glyph_scenes, mark_mask

SCENES = {rule: glyph_scenes(200, rule) for rule in ("presence", "absence")}


def class_of(rule, present):
    """The class of a scene with these glyphs; None if there is none or several."""
    if rule == "presence":
        classes = [c for c in range(3) if present[2 * c] and present[2 * c + 1]]
    else:
        classes = [c for c in range(3) if not present[c]]
    return classes[0] if len(classes) == 1 else None


@pytest.mark.parametrize("rule", SCENES)
def test_classes_follow_from_the_glyphs_and_decisive_ones_decide(rule):
    scenes = SCENES[rule]
    assert set(scenes.labels.tolist()) == {0, 1, 2}
    for label, present, decisive in zip(scenes.labels.tolist(), scenes.present, scenes.decisive):
        assert class_of(rule, present) == label
        for glyph in range(len(GLYPHS)):
            without = present.clone()
            without[glyph] = False
            changes = bool(present[glyph]) and class_of(rule, without) != label
            assert changes == bool(decisive[glyph])


@pytest.mark.parametrize("rule", SCENES)
def test_masks_are_where_glyphs_are_and_none_overlap(rule):
    scenes = SCENES[rule]
    assert torch.equal(scenes.masks.flatten(2).any(2), scenes.present)
    assert scenes.masks.sum(1).max() <= 2  # they grow by a pixel, and touch at most
    inside = scenes.masks.any(1)
    background = scenes.images.amax(1)
    contrast = [float(image[mask].mean() - image[~mask].mean()) for image, mask in zip(background, inside)]
    assert np.mean(contrast) > .15


def test_seeds_give_other_scenes_and_the_same_ones_again():
    again, other = glyph_scenes(200), glyph_scenes(200, random_state=1)
    assert torch.equal(again.images, SCENES["presence"].images)
    assert not torch.equal(other.labels, again.labels)


def test_the_mark_is_on_one_class_alone():
    scenes = glyph_scenes(100, marked_class=1)
    corner = scenes.images[:, :, mark_mask(scenes.images)]
    assert torch.equal(scenes.marked, scenes.labels == 1)
    assert (corner[scenes.marked] == 1).all() and (corner[~scenes.marked] < 1).any(2).any(1).all()
    changed = add_mark(scenes.images) != scenes.images
    assert not changed[..., ~mark_mask(scenes.images)].any()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="rule is 'presence' or 'absence', not 'both'"):
        glyph_scenes(2, "both")
    with pytest.raises(ValueError, match="marked_class"):
        glyph_scenes(2, marked_class=3)


def test_the_embedder_sees_glyphs_and_knows_their_names():
    embedder = GlyphEmbedder()
    scenes = SCENES["presence"]
    found = embedder.images(vis_inputs(scenes.images[:100]))
    assert min(auroc(found[:, i], scenes.present[:100, i]) for i in range(len(GLYPHS))) > .95
    names = embedder.texts([*GLYPHS, "elephant"])
    assert (names[:-1].argmax(1) == np.arange(len(GLYPHS))).all() and names[-1].max() < .1
