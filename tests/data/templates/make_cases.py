"""Makes the *.cases.json beside this file: small templates, and what Python's Jinja2 makes of them.

Needs jinja2 3.1 or later. The environment is the one in which transformers runs chat templates. Usage: python make_cases.py
Each block of a *.cases.txt is a case, after an optional "#context" line. A case in the JSON holds "template", "context" and either "text", or "error" with the "line" that Python names (absent if it names none, or one within a
tag of several lines).
"""
import datetime
import json
import pathlib
import re
import sys
import traceback

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks the assistant's text; its body is printed as it is."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def line_of(error):
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "<template>"]
    return lines[-1] if lines else None


def run(template, context):
    case = {"template": template, "context": context}
    try:
        text = environment().from_string(template).render(**json.loads(json.dumps(context)))
        text.encode()
        case["text"] = text
    except Exception as error:
        case["error"] = f"{type(error).__name__}: {error}"
        # Which line of a tag of several lines Python names depends on how it compiled the tag.
        if line_of(error) and not re.search(r"\{[{%][^}%]*\n[^}%]*[}%]\}", template):
            case["line"] = line_of(error)
    return case


def main():
    here = pathlib.Path(__file__).parent
    for source in sorted(here.glob("*.cases.txt")):
        context, cases = {}, []
        for block in source.read_text(encoding="utf-8").split("\n----\n"):
            head, _, rest = block.partition("\n")
            if head.startswith("#context "):  # for this case and those after it
                context = json.loads(head[len("#context "):])
                block = rest
            cases.append(run(block.removesuffix("\n----"), context))
        out = source.with_suffix("").with_suffix(".cases.json")
        rows = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
        out.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
        print(f"{out.name}: {len(cases)} cases, {sum('error' in c for c in cases)} errors", file=sys.stderr)


main()
