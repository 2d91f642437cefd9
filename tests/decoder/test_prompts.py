"""How a prompt becomes tokens, and which prompts are refused."""

import pytest
from tokenizers.processors import TemplateProcessing

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


def bos_tokenizer(bos="w1"):
    """As llama's: puts its BOS before plain strings."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="w1 $A", special_tokens=[("w1", 1)]
    )
    tokenizer.bos_token = bos
    return tokenizer


class InsistentTokenizer:
    """Puts its BOS before any text, also before one that is to get no special tokens."""

    bos_token, bos_token_id, chat_template = "w1", 1, None

    def __init__(self):
        self.inner = bos_tokenizer()

    def __call__(self, text, add_special_tokens=True):
        return self.inner(text)

    def apply_chat_template(self, messages, **settings):
        return self.inner.apply_chat_template(messages, **settings)


def test_a_chat_template_adds_no_special_token_twice():
    """The template writes the BOS itself; the tokenizer, which would add one, must not."""
    tokenizer = bos_tokenizer()
    assert PromptStyle().encode("w5", tokenizer) == [1, 5]
    for written in ("w1 ", "{{ bos_token }} "):
        style = PromptStyle(chat_template=written + CHAT)
        assert style.encode("w5", tokenizer) == [1, 60, 62, 5, 63]


@pytest.mark.parametrize("written", ["", "{{ bos_token }} "], ids=["without a BOS", "with a BOS"])
@pytest.mark.parametrize("make", [word_tokenizer, bos_tokenizer], ids=["adds none", "adds a BOS"])
def test_a_chat_prompt_is_what_transformers_makes_of_it(make, written):
    tokenizer = make()
    tokenizer.bos_token = "w1"
    tokenizer.chat_template = written + CHAT
    messages = [{"role": "user", "content": "w5"}]
    theirs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert PromptStyle(chat=True).encode("w5", tokenizer) == list(theirs)
    assert list(theirs).count(1) == (1 if written else 0)


@pytest.mark.parametrize("bos", ["w1", None], ids=["a named BOS", "a BOS without a name"])
@pytest.mark.parametrize(
    ("template", "prompt"),
    [("w1 {prompt}", "w5"), ("{prompt}", "w1 w5"), (None, "w1 w5"), (None, "w1")],
)
def test_a_special_token_that_the_tokenizer_adds_is_not_written_as_well(bos, template, prompt):
    with pytest.raises(w2s.PromptError, match=r"^it would begin with 'w1' twice: .*; leave 'w1'"):
        PromptStyle(template=template).encode(prompt, bos_tokenizer(bos), "it")
    # A tokenizer that adds none leaves it to the text.
    assert PromptStyle(template=template).encode(prompt, word_tokenizer())[0] == 1


def test_a_token_that_is_no_special_one_may_begin_a_prompt_twice():
    assert PromptStyle().encode("w5 w5 w6", word_tokenizer()) == [5, 5, 6]
    assert PromptStyle().encode("w5 w5", bos_tokenizer()) == [1, 5, 5]
    assert PromptStyle().encode("w5 w1", bos_tokenizer()) == [1, 5, 1]


@pytest.mark.parametrize(
    ("style", "tokenizer", "message"),
    [
        ({"chat_template": "{{ bos_token }} w1 " + CHAT}, bos_tokenizer, "once in the chat templ"),
        ({"chat_template": "w1 " + CHAT, "template": "w1 {prompt}"}, bos_tokenizer,
         "'w1' twice: the template 'w1 {prompt}' writes it, and so does the chat template; leave"),
        ({"chat_template": "w1 " + CHAT}, InsistentTokenizer, "adds it even to text"),
    ],
    ids=["the chat template twice", "template and chat template", "the tokenizer insists"],
)  # fmt: skip
def test_a_chat_prompt_with_two_bos_tokens_is_refused(style, tokenizer, message):
    with pytest.raises(w2s.PromptError) as refused:
        PromptStyle(**style).encode("w5", tokenizer())
    assert message in str(refused.value)


def test_a_chat_template_that_refuses_is_named(tokenizer):
    style = PromptStyle(chat_template="{{ raise_exception('System role not supported') }}")
    with pytest.raises(w2s.PromptError, match=r"render prompt 1: System role not supported; give"):
        style.encode("w5", tokenizer, "prompt 1")
    with pytest.raises(w2s.PromptError, match="cannot render it"):
        PromptStyle(chat_template="{% for %}").encode("w5", tokenizer, "it")


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
