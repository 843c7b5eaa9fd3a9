#!/usr/bin/env python3
"""Makes parts.json.gz: small tokenizers with every part that is supported, and what Hugging Face's `tokenizers` gives for them.

    python3 make_parts.py        (needs the package `tokenizers`, 0.23; building and testing the project do not)

parts.json.gz: {"models": {name: model}, "cases": [{"name", "model", the parts ..., "lines": [{"text", "special", "ids", "decoded",
"skipped"}]}]}: `special` is add_special_tokens, `skipped` is decode(skip_special_tokens=True).
"""
import gzip
import json
import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

WORDS = ("the router sends each token to its experts and the experts answer; don't they? we'll see: I'm sure it's "
         "12 of 345 in 2024, e.g. x_1 = 3.14 * y(2) - z[0]; Straße café naïve Ωmega ｆｕｌｌ ﬁne 你好世界 こんにちは мир ½ Ⅷ é ẛ̣").split()
SEPARATORS = [" ", " ", " ", " ", "  ", "\n", "\n\n", "\t", " \n ", "   ", "-", "--", ", ", "", "\u00a0", "\u3000", "\u180e", "\r\n"]
HARD = ["", " ", "  ", "\n", "a", " a", "a ", "▁", "▁▁a", " ▁ ", "<0x41>", "a<s>b", "a <s> b", "<s><s>", "x  <mask>  y",
        "foobar", "foo bar", "foo", "_foo", "foo.", "FOO foo", "don't I'LL", "1234567", "a1b22c333", "...a..b.", "--a--b-c",
        "\u0000\u0001\u007f\u0080", "e\u0301\u0323", "\U0001F469\u200d\U0001F4BB\U0001F1E9", "ﬁ ﬂ ½ Å Å", "İstanbul ΣΑΣ", "\ufeffx\ufffd",
        "天地玄黄 宇宙洪荒", "a\u200bb\u2028c\u0085d", "q" * 70, "ab" * 60, " " * 60, "éé  éé", "\U000e0001\U00100000"]


def texts(seed, n):
    r = random.Random(seed)
    made = []
    for _ in range(n):
        parts = []
        for _ in range(r.randint(1, 9)):
            word = r.choice(WORDS)
            if r.random() < 0.15:
                word = word.upper()
            if r.random() < 0.1:
                word = chr(r.choice([r.randint(0x20, 0x7e), r.randint(0xa0, 0x24f), r.randint(0x300, 0x36f), r.randint(0x4e00, 0x9fff),
                                     r.randint(0x1f300, 0x1f64f), r.randint(0x2000, 0x2fff)])) + word
            parts += [word, r.choice(SEPARATORS)]
        made.append("".join(parts))
    return made


def trained(model, pre_tokenizer, size, alphabet, byte_tokens):
    t = Tokenizer(model)
    if pre_tokenizer is not None:
        t.pre_tokenizer = pre_tokenizer
    special = ["<unk>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_tokens else [])
    t.train_from_iterator(texts(1, 3000), trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet,
                                                             limit_alphabet=400, show_progress=False))
    return json.loads(t.to_str())["model"]


def all_models():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    chars = trained(models.BPE(unk_token="<unk>"), None, 600, [], False)
    spaced = trained(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
                     pre_tokenizers.Metaspace("▁", "always", False), 800, [], True)
    wordy = trained(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"),
                    pre_tokenizers.Whitespace(), 500, [], False)
    made = {"bytes": trained(models.BPE(), pre_tokenizers.ByteLevel(False, use_regex=False), 800, alphabet, False),
            "chars": chars, "fused": dict(chars, fuse_unk=True), "dropped": dict(chars, unk_token=None), "spaced": spaced,
            "spaced_unfused": dict(spaced, fuse_unk=False), "wordy": wordy}
    made["bytes_whole"] = dict(made["bytes"], ignore_merges=True, merges=made["bytes"]["merges"][:100])
    made["bytes_unk"] = dict(made["bytes"], unk_token="<unk>")
    for name in ("bytes_unk",):  # a byte without a token, here that of "é"'s first byte
        lost = "Ã"
        vocab = {t: i for t, i in made[name]["vocab"].items() if lost not in t}
        merges = [m for m in made[name]["merges"] if lost not in m[0] + m[1]]
        made[name] = dict(made[name], vocab=vocab, merges=merges)
    return made


def token(i, content, **flags):
    base = {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return dict(base, **flags)


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def metaspace(scheme="always", cut=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def pre_cases():
    behaviors = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
    parts = {}
    for b in behaviors:
        for invert in (False, True):
            parts[f"split_{b}_{invert}"] = split(r"\s|[.,;-]", b, invert)
            parts[f"split_string_{b}_{invert}"] = split("-", b, invert, "String")
        parts[f"punctuation_{b}"] = {"type": "Punctuation", "behavior": b}
    parts["split_empty_matches"] = split(r"x*", "Isolated")
    parts["split_empty_removed"] = split(r"\d*", "MergedWithNext")
    parts["split_word_class"] = split(r"\w+|[^\w\s]+", "Removed", True)
    parts["split_repeated_interval"] = split(r"\p{L}{1,2}+|\p{Han}|\p{Greek}+", "Isolated")
    parts["split_long_names"] = split(r"\p{Letter}+|\p{^Punct}|\h{2}", "Isolated")
    parts["split_lines"] = split(r"^\s*\S|\S$|(?m:a.b)", "Isolated")
    parts["split_hex"] = split("\\u0061|\\x{62}|\\p{Lu}(?i:e)?", "Isolated")
    parts["digits"] = {"type": "Digits", "individual_digits": False}
    parts["digits_individual"] = {"type": "Digits", "individual_digits": True}
    parts["whitespace"] = {"type": "Whitespace"}
    parts["whitespace_split"] = {"type": "WhitespaceSplit"}
    made = [{"name": f"pre_{n}", "model": "chars", "pre_tokenizer": p} for n, p in parts.items()]
    for prefix in (False, True):
        for regex in (False, True):
            made.append({"name": f"byte_level_{prefix}_{regex}", "model": "bytes", "pre_tokenizer": byte_level(prefix, regex),
                         "decoder": byte_level()})
    made.append({"name": "byte_level_first", "model": "bytes", "decoder": byte_level(),
                 "pre_tokenizer": sequence("pretokenizers", byte_level(), {"type": "Digits", "individual_digits": True})})
    made.append({"name": "byte_level_digits", "model": "bytes", "decoder": byte_level(),
                 "pre_tokenizer": sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(True))})
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            made.append({"name": f"metaspace_{scheme}_{cut}", "model": "spaced", "pre_tokenizer": metaspace(scheme, cut),
                         "decoder": metaspace(scheme), "added_tokens": [token(0, "<unk>", special=True), token(900, "<s>", special=True)]})
    return made


def normalizer_cases():
    parts = {n: {"type": n} for n in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")}
    parts["strip"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    parts["strip_left"] = {"type": "Strip", "strip_left": True, "strip_right": False}
    parts["prepend"] = {"type": "Prepend", "prepend": "the"}
    parts["replace"] = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    parts["replace_regex"] = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    parts["empty"] = sequence("normalizers")
    parts["sequence"] = sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, sequence("normalizers", {"type": "Lowercase"}))
    made = [{"name": f"norm_{n}", "model": "chars", "normalizer": p} for n, p in parts.items()]
    made.append({"name": "norm_byte_level", "model": "bytes", "normalizer": {"type": "ByteLevel"}, "decoder": byte_level()})
    return made


def decoder_cases():
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    llama = sequence("decoders", replace, {"type": "ByteFallback"}, {"type": "Fuse"},
                     {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    llama_normalizer = sequence("normalizers", {"type": "Prepend", "prepend": "▁"},
                                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                         {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [900], "tokens": ["<s>"]},
                                   "</s>": {"id": "</s>", "ids": [901], "tokens": ["</s>"]}}}
    added = [token(0, "<unk>", special=True), token(900, "<s>", special=True), token(901, "</s>", special=True),
             token(902, "foo", single_word=True), token(903, "<mask>", lstrip=True, rstrip=True, special=True)]
    made = []
    for model in ("spaced", "spaced_unfused"):
        made.append({"name": f"llama_{model}", "model": model, "normalizer": llama_normalizer, "decoder": llama,
                     "post_processor": template, "added_tokens": added})
    odd = {"strip_ends": sequence("decoders", {"type": "Fuse"}, {"type": "Strip", "content": "e", "start": 1, "stop": 1}),
           "strip_tokens": {"type": "Strip", "content": "e", "start": 1, "stop": 0},
           "fused_replace": sequence("decoders", {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "the"}, "content": "THE"}),
           "fused_fallback": sequence("decoders", {"type": "Fuse"}, {"type": "ByteFallback"}),
           "fused_metaspace": sequence("decoders", {"type": "Fuse"}, metaspace()),
           "byte_level_then_strip": sequence("decoders", byte_level(), {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
           "none": None}
    made += [{"name": f"decode_{n}", "model": "spaced", "normalizer": llama_normalizer, "decoder": d} for n, d in odd.items()]
    bert = {"type": "RobertaProcessing", "sep": ["</s>", 901], "cls": ["<s>", 900], "trim_offsets": True, "add_prefix_space": False}
    made.append({"name": "post_sequence", "model": "bytes", "pre_tokenizer": byte_level(), "decoder": byte_level(), "added_tokens": added,
                 "post_processor": sequence("processors", byte_level(), template)})
    made.append({"name": "post_roberta", "model": "bytes", "pre_tokenizer": byte_level(), "decoder": byte_level(), "added_tokens": added,
                 "post_processor": bert})
    return made


def other_cases():
    flags = [token(900, "<s>", special=True), token(901, "foo", single_word=True), token(902, "<mask>", lstrip=True, rstrip=True),
             token(903, "Ω", normalized=True), token(904, "the router", normalized=True, rstrip=True), token(905, "FOO", normalized=True),
             token(906, "foobar"), token(907, "foo bar baz")]
    made = [{"name": f"added_{n}", "model": "bytes", "normalizer": norm, "pre_tokenizer": byte_level(), "decoder": byte_level(),
             "added_tokens": flags} for n, norm in (("plain", None), ("lower", {"type": "Lowercase"}), ("nfd", {"type": "NFD"}))]
    for model in ("chars", "fused", "dropped", "spaced", "spaced_unfused"):
        made.append({"name": f"model_{model}", "model": model})
    made.append({"name": "model_wordy", "model": "wordy", "pre_tokenizer": {"type": "Whitespace"}})
    for model in ("bytes_whole", "bytes_unk"):
        made.append({"name": f"model_{model}", "model": model, "pre_tokenizer": byte_level(), "decoder": byte_level()})
    return made


def run(case, all_made, seed):
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
                "post_processor": None, "decoder": None}
    document.update({k: v for k, v in case.items() if k not in ("name", "model")})
    document["model"] = all_made[case["model"]]
    # The library numbers added tokens itself, on from the vocabulary.
    top = len(document["model"]["vocab"])
    names = {t["content"]: i for i, t in enumerate([t for t in document["added_tokens"] if t["id"] >= 900])}
    text = json.dumps(document, ensure_ascii=False)
    for content, i in names.items():
        old = next(t["id"] for t in document["added_tokens"] if t["content"] == content)
        text = text.replace(f": {old},", f": {top + i},").replace(f"[{old}]", f"[{top + i}]").replace(f", {old}]", f", {top + i}]")
    document = json.loads(text)
    t = Tokenizer.from_str(text)
    lines = []
    for i, line in enumerate(HARD + texts(seed, 12)):
        ids = t.encode(line, add_special_tokens=i % 2 == 0).ids
        try:
            decoded, skipped = t.decode(ids, skip_special_tokens=False), t.decode(ids, skip_special_tokens=True)
        except BaseException:  # the library's Strip panics on tokens shorter than what it strips
            decoded = skipped = None
        lines.append({"text": line, "special": i % 2 == 0, "ids": ids, "decoded": decoded, "skipped": skipped})
    kept = {k: document[k] for k in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder") if document[k]}
    return dict({"name": case["name"], "model": case["model"]}, **kept, lines=lines)


def main():
    made = all_models()
    cases = [run(c, made, 100 + i) for i, c in enumerate(pre_cases() + normalizer_cases() + decoder_cases() + other_cases())]
    data = json.dumps({"models": made, "cases": cases}, ensure_ascii=False, separators=(",", ":")).encode()
    with open("parts.json.gz", "wb") as f, gzip.GzipFile(fileobj=f, mode="wb", mtime=0, filename="") as z:
        z.write(data)


if __name__ == "__main__":
    main()
