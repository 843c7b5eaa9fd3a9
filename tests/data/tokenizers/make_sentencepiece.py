#!/usr/bin/env python3
"""Makes sentencepiece.json.gz: a small SentencePiece BPE vocabulary as GGUF stores one, and what SentencePiece itself gives for it.

    python3 make_sentencepiece.py        (needs the package `sentencepiece`, 0.2; building and testing the project do not)
"""
import gzip
import io
import json

import sentencepiece as sp

from make_parts import HARD, texts


def kind(p, i):
    return 2 if p.is_unknown(i) else 3 if p.is_control(i) else 6 if p.is_byte(i) else 5 if p.is_unused(i) else 1


def main():
    model = io.BytesIO()
    corpus = [line.replace("\n", " ").replace("\r", " ") for line in texts(1, 3000)]
    sp.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True,
                                  normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
                                  allow_whitespace_only_pieces=True, split_digits=True, character_coverage=0.99, minloglevel=2)
    p = sp.SentencePieceProcessor(model_proto=model.getvalue())
    n = p.vocab_size()
    lines = []
    for text in [t for t in HARD if "<s>" not in t] + texts(7, 150):
        ids = p.encode(text)
        lines.append({"text": text, "ids": ids, "decoded": p.decode(ids)})
    made = {"tokens": [p.id_to_piece(i) for i in range(n)], "scores": [p.get_score(i) for i in range(n)],
            "types": [kind(p, i) for i in range(n)], "bos": p.bos_id(), "eos": p.eos_id(), "unknown": p.unk_id(), "lines": lines}
    with open("sentencepiece.json.gz", "wb") as f, gzip.GzipFile(fileobj=f, mode="wb", mtime=0, filename="") as z:
        z.write(json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode())


if __name__ == "__main__":
    main()
