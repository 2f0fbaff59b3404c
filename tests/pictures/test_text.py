import re
from functools import partial

import numpy as np
import pytest
import torch

from crp.text import TokenHeatmap, vis_tokens


def spans(html):
    return re.findall(r'<span title="([^"]*)" style="background: (#\w{6}); color: (\w+)">(.*?)</span>', html, re.DOTALL)


def rgb(colour):
    return [int(colour[i:i + 2], 16) for i in (1, 3, 5)]


def test_html_has_a_span_for_each_token_with_its_value_and_colour():
    found = spans(TokenHeatmap(["good", "bad", "<b>&", "so"], [2., -2, 0, .5])._repr_html_())
    assert [value for value, *_ in found] == ["2", "-2", "0", "0.5"]
    assert "".join(text for *_, text in found) == "good bad &lt;b&gt;&amp; so"
    red, blue, white, pale = (rgb(ground) for _, ground, _, _ in found)
    assert red[0] > red[2] + 100 and blue[2] > blue[0] + 100 and white == [255, 255, 255]
    assert pale[0] > pale[2] and min(pale) > min(red)
    assert [ink for _, _, ink, _ in found] == ["white", "white", "black", "black"]


def test_a_common_limit():
    weak, = spans(TokenHeatmap(["a"], [1.], limit=4).to_html())
    alone, = spans(TokenHeatmap(["a"], [1.]).to_html())
    quarter = spans(TokenHeatmap(["a", "b"], [1., 4]).to_html())[0]
    assert weak == quarter and min(rgb(weak[1])) > min(rgb(alone[1]))
    beyond, = spans(TokenHeatmap(["a"], [9.], limit=4).to_html())
    assert beyond[1] == alone[1]


@pytest.mark.parametrize("tokens, text", [
    (["un", "##believ", "##able", "!"], "unbelievable !"),
    (["Hello", "Ġwor", "ld", "Ċ", "Ġnext"], "Hello world\n next"),
    (["▁Das", "▁Haus", "es"], " Das Hauses"),
    (["a", " ", "b"], "a b"),
    (["##x", "y"], "x y"),
    ([], ""),
])
def test_tokens_of_common_tokenizers_become_running_text(tokens, text):
    heatmap = TokenHeatmap([tokens], [torch.zeros(len(tokens))])
    assert "".join(text for *_, text in spans(heatmap.to_html())) == text


def test_texts_of_different_lengths_each_have_their_colours():
    heatmap = TokenHeatmap([["a", "b"], ["c"]], [torch.tensor([1., 2]), torch.tensor([0.5])])
    assert heatmap.to_html().count("<div") == 2 and len(heatmap.to_images()) == 2
    assert spans(heatmap.to_html())[1][1] == spans(heatmap.to_html())[2][1]
    assert repr(heatmap) == "a(+1) b(+2)\nc(+0.5)"


def test_values_must_fit():
    with pytest.raises(ValueError, match=r"texts of \[2\] tokens and heatmaps \[\(3,\)\]"):
        TokenHeatmap(["a", "b"], torch.zeros(3))
    with pytest.raises(ValueError, match="one value for each token"):
        TokenHeatmap([["a", "b"]], torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="one value for each token"):
        TokenHeatmap([["a", "b"], ["c"]], torch.zeros(1, 2))


def test_picture_shows_each_token_on_its_colour_and_breaks_lines():
    picture, = TokenHeatmap(["iiii", "iiii"], [1., -1]).to_images(200)
    pixels = np.asarray(picture).reshape(-1, 3)
    for colour in (rgb("#c03028"), rgb("#3050b0")):
        assert (pixels == colour).all(1).sum() > 200
    narrow, = TokenHeatmap(["mmmm"] * 8, torch.ones(8)).to_images(100)
    assert narrow.width == 100 and narrow.height > 3 * picture.height
    lines, = TokenHeatmap(["▁a", "Ċ", "b"], torch.ones(3)).to_images(200)
    assert lines.height > picture.height


def test_vis_tokens_of_inputs_with_a_mask():
    ids = torch.tensor([[3, 4, 5, 6], [6, 5, 4, 3]])
    heatmaps = torch.tensor([[0, 1., .5, 0], [1, 1, 1, 1]])
    words = ["", "", "", "three", "four", "five", "six"]
    plot = partial(vis_tokens, decode=words.__getitem__, width=300)
    whole, cropped = plot(ids, heatmaps), plot(ids, heatmaps, rf=True)
    expected = TokenHeatmap([["three", "four", "five", "six"]], heatmaps[:1]).to_images(300)
    assert np.array_equal(whole[0], expected[0]) and len(whole) == 2
    expected = TokenHeatmap([["four", "five"]], heatmaps[:1, 1:3]).to_images(300)
    assert np.array_equal(cropped[0], expected[0]) and np.array_equal(cropped[1], whole[1])
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = plot(data, {"input_ids": heatmaps, "attention_mask": None})
    assert np.array_equal(found[0], whole[0])
    # by name, whatever the order, and whatever else has a heatmap or is no tensor
    data = {"token_type_ids": ids, "input_ids": ids.flip(0), "use_cache": False}
    found = plot(data, {"input_ids": heatmaps.flip(0), "token_type_ids": heatmaps, "use_cache": None})
    assert np.array_equal(found[1], whole[0])
    assert np.array_equal(plot(data, {**data, "token_type_ids": heatmaps}, key="token_type_ids")[0], whole[0])
    with pytest.raises(ValueError, match="key is one of 0, 1"):
        plot((ids, ids), (heatmaps, heatmaps))
    with pytest.raises(ValueError, match=r"token ids \[N, T\]"):
        plot(torch.rand(2, 4), heatmaps)
    with pytest.raises(ValueError, match=r"token ids \[N, T\]"):
        plot(ids, heatmaps[:, :3])


def test_words_of_a_crop_are_spaced_as_in_the_text():
    decode = {0: "Ġnot", 1: "Ġunbeliev", 2: "able"}.__getitem__
    cropped, = vis_tokens(torch.tensor([[0, 1, 2]]), torch.tensor([[0., 1, 1]]), rf=True, decode=decode)
    expected, = TokenHeatmap(["Ġunbeliev", "able"], torch.ones(2)).to_images()
    assert np.array_equal(cropped, expected)


def test_values_that_are_not_finite_have_no_colour():
    found = spans(TokenHeatmap(["a", "b", "c"], [torch.nan, torch.inf, 2.]).to_html())
    alone = spans(TokenHeatmap(["a", "b", "c"], [0., 0, 2]).to_html())
    assert [span[1:] for span in found] == [span[1:] for span in alone]
    assert [span[0] for span in found] == ["nan", "inf", "2"]


def test_letters_that_cannot_be_drawn():
    TokenHeatmap(["a\rb", "c\x85", "\u2029d"], torch.ones(3)).to_images()
    assert "".join(text for *_, text in spans(TokenHeatmap(["Ċ", "ĊĊ", "Ċetta"], torch.ones(3)).to_html())) == (
        "\n \n\n Ċetta"
    )


def test_no_relevance_at_all():
    zero, = vis_tokens(torch.tensor([[1, 2]]), torch.zeros(1, 2), rf=True)
    assert zero.width == 480
    assert vis_tokens(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0), rf=True)[0].width == 480


def test_colours_tell_strength_of_either_sign():
    strong, weak = spans(TokenHeatmap(["a", "b"], [-4., 1.]).to_html())
    assert sum(rgb(strong[1])) < sum(rgb(weak[1]))
    assert strong[1] == spans(TokenHeatmap(["a"], [-1.]).to_html())[0][1]


def test_crops_go_by_the_share_of_the_strongest():
    ids = torch.tensor([[0, 1, 2, 3]])
    for heatmap, shown in (([.01, -.5, .2, .04], "12"), ([1., -50, 20, 4], "12")):
        found, = vis_tokens(ids, torch.tensor([heatmap]), rf=True)
        expected, = TokenHeatmap(list(shown), torch.tensor(heatmap[1:3])).to_images()
        assert np.array_equal(found, expected)


def test_lines_are_as_full_as_they_can_be_and_begin_without_a_space():
    words = ["mmmm"] * 6
    heights = [TokenHeatmap(words, torch.ones(6)).to_images(width)[0].height for width in (800, 300, 150)]
    assert heights[0] < heights[1] < heights[2]
    picture = np.asarray(TokenHeatmap(["m"] * 40, torch.ones(40)).to_images(200)[0])
    coloured = (picture != 255).any(2)
    assert coloured[:, :6].sum() == 0 and coloured[:, -6:].sum() == 0
    columns = [line[6:12].any() for line in coloured if line.any()]
    assert all(columns)


# Words

@pytest.mark.parametrize("tokens, words, sums", [
    (["[CLS]", "un", "##believ", "##able", "cat", "##s", "[SEP]"], ["[CLS]", " unbelievable", " cats", " [SEP]"],
     [1, 9, 11, 7]),
    (["▁un", "believ", "able", "▁cat", "s", "</s>"], [" unbelievable", " cats", "</s>"], [6, 9, 6]),
    (["Un", "believable", "Ġcat", "s", "Ċ", "A", "Ġdog", "<|endoftext|>"],
     ["Unbelievable", " cats", "\nA", " dog", "<|endoftext|>"], [3, 7, 11, 7, 8]),
    (["<s>", "Hell", "o", "▁cat"], ["<s>", "Hello", " cat"], [1, 5, 4]),
    ([], [], []),
])
def test_tokens_are_merged_to_words_whose_relevance_is_the_sum(tokens, words, sums):
    values = torch.arange(1., len(tokens) + 1)
    found = TokenHeatmap([tokens], [values], merge="words")
    assert found.tokens == [words] and found.values[0].tolist() == sums
    assert found.values[0].sum() == values.sum()


def test_pictures_of_words_have_the_colours_of_words():
    pieces = {0: "cat", 1: "##s", 2: "dog"}
    ids, heatmaps = torch.tensor([[0, 1, 2]]), torch.tensor([[1., 1., -1.]])
    merged, = vis_tokens(ids, heatmaps, decode=pieces.get, merge="words")
    expected, = TokenHeatmap(["cats", "dog"], [2., -1.]).to_images()
    assert merged.tobytes() == expected.tobytes()
    split, = vis_tokens(ids, heatmaps, decode=pieces.get)
    assert split.tobytes() != merged.tobytes()


def test_another_way_to_merge_is_refused():
    with pytest.raises(ValueError, match="'words', not 'lines'"):
        TokenHeatmap(["a"], [1.], merge="lines")


def test_tokens_that_the_attention_mask_hides_are_not_drawn():
    plot, values = partial(vis_tokens, width=300), torch.tensor([[1., 2, 0, 0], [0, 0, 3, 4]])
    ids, mask = torch.tensor([[7, 8, 0, 0], [0, 0, 7, 8]]), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
    found = plot({"input_ids": ids, "attention_mask": mask}, {"input_ids": values, "attention_mask": None})
    expected = plot(ids[:1, :2], values[:1, :2]) + plot(ids[1:, 2:], values[1:, 2:])
    assert all(np.array_equal(*pair) for pair in zip(found, expected)) and len(found) == 2
