#!/usr/bin/env python3
"""Makes families.json.gz: for names of tokenizer.ggml.pre whose models are not in this folder, a small vocabulary and what Hugging Face's
`tokenizers` gives with the steps that the model's own files have.

    python3 make_families.py        (needs the package `tokenizers`, 0.23; building and testing the project do not)

families.json.gz: {name: {"tokens", "merges", "lines": [{"text", "ids"}]}}. The lines are those of deepseek_v3.lines.jsonl.gz up to 300 characters.
"""
import gzip
import json

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

import make_parts

CASED = ("A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-\u1f1dἠ-ὅὈ-\u1f4dὐ-ὗὙ\u1f5b\u1f5dὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
         "ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃")
END = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
FAMILIES = {
    "deepseek-llm": ["[\r\n]", f"\\s?[{CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", None],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", None],
    "kimi-k2": [rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SHORT}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SHORT}" + END],
}


def steps(patterns):
    made = [pre_tokenizers.Digits(individual_digits=True) if p is None else pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(made + [pre_tokenizers.ByteLevel(False, use_regex=False)])


def family(name, patterns, lines):
    t = Tokenizer(models.BPE(ignore_merges=name == "kimi-k2"))
    t.pre_tokenizer = steps(patterns)
    t.train_from_iterator(make_parts.texts(3, 3000) + lines, trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(t.to_str())["model"]
    return {"tokens": sorted(model["vocab"], key=model["vocab"].get), "merges": [" ".join(m) for m in model["merges"]],
            "lines": [{"text": x, "ids": t.encode(x).ids} for x in lines]}


def main():
    with gzip.open("deepseek_v3.lines.jsonl.gz", "rt") as f:
        lines = [x for x in (json.loads(line)["text"] for line in f) if len(x) <= 300]
    lines += make_parts.HARD + make_parts.texts(5, 100) + ["Ⴀ Ꞌꞎ ა Ა Αὼ Έλλην Ֆ ֆ ı ĳ ʓ ʔ ʕ", "ｆｕｌｌ！：～ 「」、。", "tail   ", "한국어 中文mixed漢字カナ", "汉字's HTTPServer's 'RE x'Ll"]
    made = {name: family(name, patterns, lines) for name, patterns in FAMILIES.items()}
    with open("families.json.gz", "wb") as f:
        f.write(gzip.compress(json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
