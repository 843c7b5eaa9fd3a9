"""Uses a server of the quickstart model through the official client: openai_client.py http://127.0.0.1:PORT"""
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
QUESTION = [{"role": "user", "content": "What is 293 + 85?"}]

# list and retrieve
models = [m.id for m in client.models.list()]
assert models == ["model"], models
assert client.models.retrieve("model").id == "model"

# chat, with the thinking apart
chat = client.chat.completions.create(model="model", messages=QUESTION, temperature=0)
assert chat.choices[0].message.content == "378", chat
assert "293" in chat.choices[0].message.reasoning_content, chat
assert chat.choices[0].finish_reason == "stop"
assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens

# streaming
stream = client.chat.completions.create(
    model="model", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True})
text, thinking, usage, reason = "", "", None, None
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        thinking += getattr(choice.delta, "reasoning_content", None) or ""
        reason = choice.finish_reason or reason
assert (text, thinking) == ("378", chat.choices[0].message.reasoning_content), (text, thinking)
assert usage == chat.usage and reason == "stop", (usage, reason)

# the streaming helper accumulates a whole completion from the chunks
with client.chat.completions.stream(model="model", messages=QUESTION, temperature=0) as helper:
    whole = helper.get_final_completion()
assert whole.choices[0].message.content == "378", whole

# completions, stop, max_tokens
plain = client.completions.create(model="model", prompt="Compute 12 + 5.", temperature=0, max_tokens=20)
assert plain.usage.completion_tokens <= 20
first = plain.choices[0].text
cut = first[len(first) // 2:][:3]
stopped = client.completions.create(model="model", prompt="Compute 12 + 5.", temperature=0, max_tokens=20, stop=[cut])
assert stopped.choices[0].text == first[:first.index(cut)], (first, cut, stopped.choices[0].text)
assert stopped.choices[0].finish_reason == "stop"

# seed and n: the same seed gives the same texts, others differ
def sampled(seed, n=1):
    many = client.completions.create(model="model", prompt="Count:", temperature=1.5, max_tokens=24, seed=seed, n=n,
                                     extra_body={"ignore_eos": True})
    assert [c.index for c in many.choices] == list(range(n))
    return [c.text for c in many.choices]

four = sampled(11, 4)
assert len(set(four)) > 1, four
assert sampled(11, 4) == four and sampled(11) == four[:1] and sampled(12) == four[1:2]

# logprobs
scored = client.chat.completions.create(model="model", messages=QUESTION, temperature=0, logprobs=True, top_logprobs=3)
content = scored.choices[0].logprobs.content
assert len(content) == scored.usage.completion_tokens
for token in content:
    assert token.logprob <= 0 and len(token.top_logprobs) == 3
    assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    assert abs(token.logprob - token.top_logprobs[0].logprob) < 1e-6  # greedy
scored = client.completions.create(model="model", prompt="Compute 12 + 5.", temperature=0, max_tokens=5, logprobs=2)
assert "".join(scored.choices[0].logprobs.tokens) == scored.choices[0].text

# errors
def error_of(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("no " + kind.__name__)

wrong = error_of(openai.BadRequestError, lambda: client.chat.completions.create(
    model="model", messages=QUESTION, response_format={"type": "json_object"}))
assert wrong.param == "response_format", wrong
error_of(openai.BadRequestError, lambda: client.chat.completions.create(model="model", messages=[]))
error_of(openai.NotFoundError, lambda: client.completions.create(model="gpt", prompt="x"))
long = error_of(openai.BadRequestError, lambda: client.completions.create(model="model", prompt="1 " * 5000))
assert "prompt" in str(long), long
print("the openai client is content")
