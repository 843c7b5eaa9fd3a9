"""Small arithmetic problems with worked chains of thought, in English and Chinese. Everything follows from the seed."""
import json
import pathlib
import random
import sys

BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"

NAMES = ["Mia", "Leo", "Ana", "Tom", "Zoe", "Sam", "Ivy", "Max", "Eva", "Ben", "Lily", "Omar", "Nina", "Raj", "Yuki", "Kofi"]
THINGS = ["apples", "marbles", "books", "coins", "stickers", "shells", "pens", "cards", "stamps", "cookies", "oranges", "beads"]
CHINESE_NAMES = ["小明", "小红", "小华", "小丽", "小刚", "小芳"]
CHINESE_THINGS = ["苹果", "弹珠", "橘子", "贝壳", "饼干", "珠子", "气球", "糖果"]


def number(rng, max_digits=4):
    """Every length is as likely as the others."""
    digits = rng.randint(1, max_digits)
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def columns(a, b):
    """The digits of two numbers side by side, lowest first."""
    n = max(len(str(a)), len(str(b)))
    return list(zip(map(int, str(a).zfill(n)[::-1]), map(int, str(b).zfill(n)[::-1])))


def adding(a, b):
    """Column by column with the carry: 27 + 8 is 7+8+0=15; 2+0+1=3."""
    steps, carry = [], 0
    for x, y in columns(a, b):
        total = x + y + carry
        steps.append(f"{x}+{y}+{carry}={total}")
        carry = total // 10
    return "; ".join(steps + ([f"carry {carry}"] if carry else []))


def subtracting(a, b):
    """Column by column with the borrow, for a >= b."""
    steps, borrow = [], 0
    for x, y in columns(a, b):
        rest = x - y - borrow
        if rest < 0:
            steps.append(f"{x}-{y}-{borrow}<0, 1{x}-{y}-{borrow}={rest + 10}")
        else:
            steps.append(f"{x}-{y}-{borrow}={rest}")
        borrow = int(rest < 0)
    return "; ".join(steps)


def sum_of(a, b):
    return f"{a} + {b}: {adding(a, b)}, {a} + {b} = {a + b}"


# Each returns (question, thoughts, answer).


def addition(rng):
    a, b = number(rng), number(rng)
    question = rng.choice([f"What is {a} + {b}?", f"{a} + {b} = ?", f"Add {a} and {b}.", f"{a} 加 {b} 等于多少？", f"Compute {a} + {b}."])
    return question, f"{a} + {b}: {adding(a, b)}. So {a} + {b} = {a + b}.", str(a + b)


def subtraction(rng):
    b, a = sorted((number(rng), number(rng)))
    question = rng.choice([f"What is {a} - {b}?", f"{a} - {b} = ?", f"Subtract {b} from {a}.", f"{a} 减 {b} 等于多少？", f"Compute {a} - {b}."])
    return question, f"{a} - {b}: {subtracting(a, b)}. So {a} - {b} = {a - b}.", str(a - b)


def multiplication(rng):
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    question = rng.choice([f"What is {a} * {b}?", f"{a} * {b} = ?", f"Multiply {a} by {b}.", f"{a} 乘 {b} 等于多少？", f"Compute {a} * {b}."])
    if b < 10:
        tens, ones = a // 10 * 10 * b, a % 10 * b
        return question, f"{a // 10 * 10} * {b} = {tens}, {a % 10} * {b} = {ones}, {tens} + {ones} = {a * b}.", str(a * b)
    high, low = b // 10 * 10, b % 10
    p, q = a * high, a * low
    return question, f"{a} * {high} = {p}, {a} * {low} = {q}. {p} + {q}: {adding(p, q)}. So {a} * {b} = {a * b}.", str(a * b)


def gain_and_loss(rng):
    a, b = rng.randint(10, 99), rng.randint(2, 99)
    had = a + b
    given = rng.randint(1, had - 1)
    left = had - given
    thoughts = f"{sum_of(a, b)}. {had} - {given}: {subtracting(had, given)}, {had} - {given} = {left}."
    if rng.random() < 0.35:
        (who, other), thing = rng.sample(CHINESE_NAMES, 2), rng.choice(CHINESE_THINGS)
        return f"{who}有{a}个{thing}，又买了{b}个，然后送给{other}{given}个。{who}现在有多少个{thing}？", thoughts, f"{left}个{thing}"
    (who, other), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    gets, loses = rng.choice(["buys", "finds", "gets"]), rng.choice(["gives", "sells", "lends"])
    question = f"{who} has {a} {thing}. {who} {gets} {b} more and {loses} {given} to {other}. How many {thing} does {who} have now?"
    return question, thoughts, f"{left} {thing}"


def shopping(rng):
    first, second = rng.sample(THINGS, 2)
    price1, price2, n1, n2 = (rng.randint(2, 12) for _ in range(4))
    a, b = n1 * price1, n2 * price2
    question = (
        f"One of the {first} costs {price1} coins and one of the {second} costs {price2} coins. "
        f"How many coins do {n1} {first} and {n2} {second} cost?"
    )
    return question, f"{n1} * {price1} = {a}. {n2} * {price2} = {b}. {sum_of(a, b)}.", f"{a + b} coins"


def comparison(rng):
    a = number(rng)
    b = number(rng) if rng.random() < 0.5 else max(0, a + rng.randint(-20, 20))
    b += a == b
    larger = rng.random() < 0.5
    question = rng.choice([f"Which is {'larger' if larger else 'smaller'}, {a} or {b}?", f"{a} 和 {b} 哪个更{'大' if larger else '小'}？"])
    thoughts = f"{a} has {len(str(a))} digits, {b} has {len(str(b))} digits. "
    if len(str(a)) == len(str(b)):
        x, y = next((x, y) for x, y in zip(str(a), str(b)) if x != y)
        thoughts += f"They first differ at {x} and {y}. "
    return question, thoughts + f"{max(a, b)} > {min(a, b)}.", str(max(a, b) if larger else min(a, b))


def long_sum(rng):
    terms = [rng.randint(1, 60) for _ in range(rng.randint(3, 5))]
    listed = ", ".join(map(str, terms))
    question = rng.choice([f"Add up {listed}.", f"What is the sum of {listed}?", f"{'、'.join(map(str, terms))} 的和是多少？"])
    total, steps = terms[0], []
    for term in terms[1:]:
        steps.append(f"{total} + {term} = {total + term}")
        total += term
    return question, ". ".join(steps) + ".", str(total)


def parity(rng):
    a = number(rng)
    word = "odd" if a % 2 else "even"
    question = rng.choice([f"Is {a} even or odd?", f"Is the number {a} odd or even?"])
    return question, f"The last digit of {a} is {a % 10}, which is {word}.", word


def sorting(rng):
    left = rng.sample(range(1, 100), rng.randint(3, 5))
    upwards = rng.random() < 0.5
    ordered = sorted(left, reverse=not upwards)
    question = f"Sort {', '.join(map(str, left))} from {'small to large' if upwards else 'large to small'}."
    steps = []
    for value in ordered[:-1]:
        steps.append(f"{'min' if upwards else 'max'}({', '.join(map(str, left))}) = {value}")
        left.remove(value)
    return question, ". ".join(steps) + ".", ", ".join(map(str, ordered))


KINDS = {
    "add": (addition, 3),
    "sub": (subtraction, 3),
    "mul": (multiplication, 4),
    "word": (gain_and_loss, 4),
    "shop": (shopping, 3),
    "compare": (comparison, 1),
    "sum": (long_sum, 2),
    "parity": (parity, 0.5),
    "sort": (sorting, 2),
}
TEST_SEED = "test"


def problem(rng):
    """(kind, question, thoughts, answer)"""
    kind = rng.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
    return kind, *KINDS[kind][0](rng)


def problems(seed, n):
    rng = random.Random(seed)
    return [problem(rng) for _ in range(n)]


def prompt(question):
    return f"{BOS}{USER}{question}{ASSISTANT}<think>\n"


def response(thoughts, answer):
    return f"{thoughts}\n</think>\n\n{answer}{EOS}"


def write_test(path, n):
    """The problems that no model is trained on, for `patchbay eval` and `patchbay experiment`."""
    lines = [json.dumps({"kind": k, "question": q, "answer": a}, ensure_ascii=False) for k, q, _, a in problems(TEST_SEED, n)]
    pathlib.Path(path).write_text("\n".join(lines) + "\n")


def write_worked(path, n):
    """The same problems as a model is to answer them, for the perplexity of `patchbay experiment`."""
    texts = [prompt(q) + response(thoughts, answer) for _, q, thoughts, answer in problems(TEST_SEED, n)]
    pathlib.Path(path).write_text("\n----\n".join(texts))


if __name__ == "__main__":
    (write_worked if sys.argv[3:] == ["worked"] else write_test)(sys.argv[1], int(sys.argv[2]))
