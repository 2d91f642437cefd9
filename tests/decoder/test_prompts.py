"""How a prompt becomes tokens, and which prompts are refused."""

import pytest

import w2s
from support.tiny import TableModel, llama_config, random_table, tiny_model, word_tokenizer
from w2s.prompts import PromptStyle

CHAT = (
    "{% for m in messages %}w60 {{ m['role'] == 'system' and 'w61' or 'w62' }} {{ m['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}w63{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.mark.parametrize(
    ("style", "prompt", "ids"),
    [
        (PromptStyle(), "w5 w6", [5, 6]),
        (PromptStyle(template="w9 {prompt} w10"), "w5 w6", [9, 5, 6, 10]),
        (PromptStyle(template="w9 {prompt} {prompt}"), "w5", [9, 5, 5]),
        (PromptStyle(chat_template=CHAT), "w5", [60, 62, 5, 63]),
        (PromptStyle(chat_template=CHAT, system="w8"), "w5", [60, 61, 8, 60, 62, 5, 63]),
        (PromptStyle(chat_template=CHAT, template="w9 {prompt}"), "w5", [60, 62, 9, 5, 63]),
        (PromptStyle(chat_template=CHAT), [{"role": "user", "content": "w7"}], [60, 62, 7, 63]),
        (PromptStyle(), [5, 6, 7], [5, 6, 7]),
    ],
)
def test_each_style_gives_its_tokens(tokenizer, style, prompt, ids):
    assert style.encode(prompt, tokenizer) == ids


def test_a_chat_template_may_be_a_file(tokenizer, tmp_path):
    (tmp_path / "chat.jinja").write_text(CHAT)
    style = PromptStyle(chat_template=str(tmp_path / "chat.jinja"))
    assert style.encode("w5", tokenizer) == [60, 62, 5, 63]
    with pytest.raises(w2s.PromptError, match="cannot be read"):
        PromptStyle(chat_template=str(tmp_path / "missing.jinja"))


def test_a_chat_template_adds_no_special_token_twice():
    """The template writes the BOS itself; the tokenizer, which would add one, must not."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="w1 $A", special_tokens=[("w1", 1)]
    )
    assert PromptStyle().encode("w5", tokenizer) == [1, 5]
    assert PromptStyle(chat_template="w1 " + CHAT).encode("w5", tokenizer) == [1, 60, 62, 5, 63]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt 1 is empty"),
        ([], "prompt 1 is empty"),
        ("  ", "prompt 1 has no tokens"),
        (7, "prompt 1 is int"),
        (None, "prompt 1 is NoneType"),
        ([{"content": "no role"}], "prompt 1 is list"),
        ([{"role": "user", "content": "w5"}], "needs a chat template"),
        ([5, VOCAB_END := 64], f"outside \\[0, {VOCAB_END}\\)"),
        ("w5 " * 100, "100 tokens, and with 50 new ones that is more than the 128 positions"),
    ],
)
def test_a_bad_prompt_is_refused_with_its_place(tokenizer, prompt, message):
    model = w2s.load((tiny_model(llama_config(), 0), tokenizer))
    plan = w2s.SearchPlan()
    with pytest.raises(w2s.PromptError, match=message):
        w2s.search(["w5", prompt], w2s.LocalProposer(model, plan), None, plan)


def test_a_template_without_a_place_for_the_prompt_is_refused():
    with pytest.raises(w2s.PromptError, match=r"'Review:' does not contain \{prompt\}"):
        w2s.load((TableModel(random_table(0)), None), template="Review:")


def test_text_needs_a_tokenizer():
    plan = w2s.SearchPlan()
    proposer = w2s.LocalProposer((TableModel(random_table(0)), None), plan)
    with pytest.raises(w2s.PromptError, match="without a tokenizer"):
        w2s.search(["text"], proposer, None, plan)


def test_one_string_is_not_a_list_of_prompts():
    plan = w2s.SearchPlan()
    proposer = w2s.LocalProposer((TableModel(random_table(0)), None), plan)
    with pytest.raises(w2s.SearchError, match="takes a list"):
        w2s.search("text", proposer, None, plan)
