"""The page that describes a typed handler: one HTML file that loads nothing, so that it works without a network."""

from __future__ import annotations

import html
import json
import shlex
from typing import Any

from .schema_example import schema_example

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #0b6bcb; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --accent: #6db3f2; --bad: #ef7a7a; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
code, pre, textarea, input { font: .875rem/1.5 ui-monospace, monospace; }
pre, textarea { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; margin: 0;
  width: 100%; overflow: auto; white-space: pre; color: inherit; }
.verb { background: var(--accent); color: Canvas; border-radius: 4px; padding: .1rem .5rem; font-weight: 600; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .35rem .75rem .35rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
button { font: inherit; padding: .4rem 1.2rem; border-radius: 6px; border: 0; background: var(--accent); color: Canvas;
  cursor: pointer; margin: .75rem 0; } button:disabled { opacity: .5; }
a { color: var(--accent); } .error { color: var(--bad); } .muted { opacity: .7; }
"""

_SCRIPT = """
const form = document.getElementById("try"), out = document.getElementById("answer");
const line = document.getElementById("status");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button"), start = performance.now();
  button.disabled = true; line.className = "muted"; line.textContent = "waiting…"; out.hidden = true;
  try {
    const response = await fetch(form.dataset.path, {
      method: "POST", headers: {"content-type": "application/json"}, body: document.getElementById("body").value });
    const text = await response.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { }
    line.textContent = `${response.status} ${response.statusText} in ${(performance.now() - start).toFixed(1)} ms`;
    line.className = response.ok ? "muted" : "error";
    out.textContent = shown; out.hidden = false;
  } catch (error) {
    line.className = "error"; line.textContent = String(error);
  } finally { button.disabled = false; }
});
"""


def docs_page(document: dict[str, Any]) -> str:
    """Renders an OpenAPI document of one path, as `openapi_document` makes them.

    Shown are the operation, the body's fields, its schema, an example, a curl line, the answers, and a form to try it.
    """
    path, operations = next(iter(document["paths"].items()))
    post = operations["post"]
    components = document["components"]["schemas"]
    content = post["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    example = json.dumps(schema_example(schema, components), indent=2, ensure_ascii=False)
    rows = min(20, example.count("\n") + 2)
    title = html.escape(document["info"]["title"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(post["summary"])}</h1>
<p>{_verbs(operations)} <code>{html.escape(path)}</code></p>
{_paragraphs(post.get("description", ""))}
<h2>Body</h2>
<p class="muted">{html.escape(" or ".join(content))}</p>
{_fields(schema, components)}
<details><summary>JSON schema</summary><pre>{_pretty(_with_definitions(schema, components))}</pre></details>
{_query(operations)}
<h2>With curl</h2>
<pre id="curl">{html.escape(_curl(path, example))}</pre>
<h2>Try it</h2>
<form id="try" data-path="{html.escape(path)}">
<textarea id="body" rows="{rows}" spellcheck="false" aria-label="body">{html.escape(example)}</textarea>
<button type="submit">Send</button> <span id="status" class="muted" role="status"></span>
<pre id="answer" hidden></pre>
</form>
<h2>Answers</h2>
{_answers(post["responses"], components)}
<p class="muted">As a file: <a href="{html.escape(path.rstrip("/"))}/openapi.json">openapi.json</a></p>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _verbs(operations: dict[str, Any]) -> str:
    return " ".join(f'<span class="verb">{html.escape(verb.upper())}</span>' for verb in operations)


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n") if part.strip())


def _pretty(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2, ensure_ascii=False))


def _curl(path: str, example: str) -> str:
    compact = json.dumps(json.loads(example), ensure_ascii=False)
    return (
        f"curl {shlex.quote('http://localhost:8000' + path)} "
        f"-H 'content-type: application/json' -d {shlex.quote(compact)}"
    )


def _fields(schema: dict[str, Any], components: dict[str, Any]) -> str:
    resolved = _resolved(schema, components)
    properties = resolved.get("properties")
    if not properties:
        return f"<p><code>{html.escape(_type_name(schema))}</code></p>"
    required = set(resolved.get("required", ()))
    rows = []
    for name, part in properties.items():
        if name in required:
            need = "required"
        else:
            need = f"default <code>{_pretty(part['default'])}</code>" if "default" in part else "optional"
        rows.append(
            f"<tr><td><code>{html.escape(name)}</code></td><td><code>{html.escape(_type_name(part))}</code></td>"
            f"<td>{need}</td><td>{html.escape(part.get('description', ''))}</td></tr>"
        )
    return f"<table><tr><th>key</th><th>type</th><th></th><th></th></tr>{''.join(rows)}</table>"


def _query(operations: dict[str, Any]) -> str:
    parameters = operations.get("get", {}).get("parameters")
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{html.escape(parameter['name'])}</code></td>"
        f"<td><code>{html.escape(_type_name(parameter['schema']))}</code></td>"
        f"<td>{'required' if parameter['required'] else 'optional'}</td></tr>"
        for parameter in parameters
    )
    return f"<h2>Or as a query string</h2><table><tr><th>key</th><th>type</th><th></th></tr>{rows}</table>"


def _answers(responses: dict[str, Any], components: dict[str, Any]) -> str:
    rows = []
    for status, response in responses.items():
        media_type, described = next(iter(response["content"].items()))
        schema = described["schema"]
        detail = f"<pre>{_pretty(_resolved(schema, components))}</pre>" if schema and status == "200" else ""
        rows.append(
            f"<tr><td><code>{html.escape(status)}</code></td><td>{html.escape(response['description'])} "
            f'<span class="muted">{html.escape(media_type)}</span>{detail}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _type_name(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_type_name(part) for part in schema[key])
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type_name(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    resolved: dict[str, Any] = components.get(_type_name(schema), {})
    return resolved


def _with_definitions(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """The schema with the models that it leads to, so that it can be read on its own."""
    used: dict[str, Any] = {}
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending.extend(part)
        elif isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name in components and name not in used:
                used[name] = components[name]
                pending.append(components[name])
            pending.extend(value for value in part.values() if isinstance(value, dict | list))
    return {**_resolved(schema, components), **({"$defs": used} if used else {})}
