"""Hooks of MkDocs: pages that would go stale as copies are made from their sources when the site is built.

- The README is the first page. Files outside of docs/ that a page links to become pages or pictures, too, so
  that the same relative links work in the repository and in the site.
- `<!-- settings -->` becomes tables of all settings, with the comments of `urnet_tf/config/fields.py`.
- A notebook becomes a page with its outputs.
"""

import ast
import dataclasses
import io
import json
import pathlib
import posixpath
import re
import sys
import tokenize

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FIELDS = REPOSITORY / "urnet_tf" / "config" / "fields.py"
SETTINGS = "<!-- settings -->"
PICTURES = (".png", ".jpg", ".svg")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)(?=\))")
_CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_NOT_FOUND = "---\nsearch: {exclude: true}\n---\n"  # sources stay out of the search

# ----------------------------------------------------------------------------------- links and files


def links(markdown: str) -> list[tuple[str, str]]:
    """Target and anchor ("" or "#...") of each relative link to a file, in order; none inside of code."""
    return _LINK.findall(_CODE.sub("", markdown))


def site_uri(path: str) -> str:
    """Where a file of the repository lies in the source of the site; "/" separated, as `path`."""
    if path == "README.md":
        return "index.md"
    inside = path.removeprefix("docs/")
    return inside if inside.endswith((".md", *PICTURES)) else f"{inside}.md"


def repository_path(uri: str) -> str:
    """The inverse of `site_uri` for Markdown pages."""
    if uri == "index.md":
        return "README.md"
    inside = (REPOSITORY / "docs" / uri).exists() or (REPOSITORY / "docs" / uri.removesuffix(".md")).exists()
    return f"docs/{uri}" if inside else uri


def relink(markdown: str, path: str) -> str:
    """The text of the file `path` with links that fit where `site_uri` puts it."""
    start = posixpath.dirname(site_uri(path))

    def replace(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        return posixpath.relpath(site_uri(target), start or ".") + match[2]

    code = [(match.start(), match.end()) for match in _CODE.finditer(markdown)]
    return _LINK.sub(
        lambda match: match[0] if any(a <= match.start() < b for a, b in code) else replace(match), markdown
    )


def outside_files(pages: list[str]) -> list[str]:
    """Files outside of docs/ that these pages, or Markdown files found on the way, link to."""
    found, waiting = {}, [*pages]
    while waiting:
        page = waiting.pop()
        for target, _ in links((REPOSITORY / page).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            if path in found or path == "README.md" or path.startswith("docs/"):
                continue
            found[path] = None
            if path.endswith(".md"):
                waiting.append(path)
    return sorted(found)


def show_source(path: str) -> str:
    """A page with the text of a file."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    suffix = pathlib.PurePath(path).suffix.lstrip(".")
    language = {"py": "python", "yaml": "yaml", "sh": "bash", "toml": "toml"}.get(suffix, "text")
    return f"{_NOT_FOUND}# `{path}`\n\n````{language}\n{text.rstrip()}\n````\n"


def on_files(files, config):
    """Adds the README, what lies outside of docs/, and the notebooks."""
    from mkdocs.structure.files import File, InclusionLevel

    def add(path, **kwargs):
        files.append(File.generated(config, site_uri(path), inclusion=InclusionLevel.NOT_IN_NAV, **kwargs))

    pages = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    for notebook in sorted((REPOSITORY / "docs").rglob("*.ipynb")):
        path = notebook.relative_to(REPOSITORY).as_posix()
        files.remove(files.src_uris[path.removeprefix("docs/")])
        add(path, content=show_notebook(notebook))
    add("README.md", content=(REPOSITORY / "README.md").read_text(encoding="utf-8"))
    for path in outside_files(pages):
        if path.endswith(PICTURES):
            add(path, abs_src_path=str(REPOSITORY / path))
        else:
            text = (REPOSITORY / path).read_text(encoding="utf-8")
            add(path, content=text if path.endswith(".md") else show_source(path))
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes links fit, and puts the settings into their place."""
    if SETTINGS in markdown:
        markdown = markdown.replace(SETTINGS, settings_tables())
    return relink(markdown, repository_path(page.file.src_uri))


# ----------------------------------------------------------------------------------------- notebooks


def show_notebook(notebook: pathlib.Path) -> str:
    """A notebook as Markdown: its text, its code, and what the code printed, tabulated and drew."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += map(_show_output, cell.get("outputs", ()))
    return "\n\n".join(parts) + "\n"


def _show_output(output):
    data = output.get("data", {})
    if "image/png" in data:
        return f"![](data:image/png;base64,{''.join(data['image/png']).strip()})"
    if "text/html" in data:
        return f"<div class='output'>{''.join(data['text/html'])}</div>"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"


# ------------------------------------------------------------------------------------------ settings


def settings_tables() -> str:
    """Tables of all settings, section by section, and of what the presets change."""
    presets, fields = _load_config()
    seen, parts = {}, [_presets_table(presets, fields)]
    _add_section(fields.Config(), "", seen, parts)
    return "\n".join(parts)


def read_comments(source: str) -> dict[tuple[str, str], str]:
    """The comment of each field: on its lines or on the lines above, by class and field."""
    remarks, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt:"):
            remarks[token.start[0]] = token.string.lstrip("# ").strip()
            if token.line.lstrip().startswith("#"):
                alone.add(token.start[0])
    found = {}
    for node in ast.parse(source).body:
        for item in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(item, ast.AnnAssign):
                first = item.lineno
                while first - 1 in alone:
                    first -= 1
                texts = [remarks[line] for line in range(first, item.end_lineno + 1) if line in remarks]
                found[node.name, item.target.id] = " ".join(texts)
    return found


def _load_config():
    sys.path.insert(0, str(REPOSITORY))
    try:
        from urnet_tf.config import fields, presets
    finally:
        sys.path.pop(0)
    return presets, fields


def _flatten(section, prefix=""):
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flatten(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _presets_table(presets, fields):
    trees = {
        "best": {},
        "best, finetune": {"model": {"mode": "finetune"}},
        "sound": {"preset": "sound"},
        "paper": {"preset": "paper"},
    }
    columns = {name: dict(_flatten(presets.from_dict(tree))) for name, tree in trees.items()}
    lines = [
        "### What the presets set", "",
        "| setting | " + " | ".join(f"`{name}`" for name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]  # fmt: skip
    for key, value in columns["best"].items():
        values = [column[key] for column in columns.values()]
        if key not in ("preset", "model.mode") and any(other != value for other in values):
            lines.append(f"| `{key}` | " + " | ".join(map(_show, values)) + " |")
    return "\n".join([*lines, ""])


def _add_section(section, prefix, seen, parts):
    """Appends a section's table, then those of the sections inside."""
    comments = read_comments(FIELDS.read_text(encoding="utf-8"))
    owners = {
        name: cls.__name__
        for cls in reversed(type(section).__mro__)
        for name in vars(cls).get("__annotations__", ())
    }
    leaves = [
        f for f in dataclasses.fields(section) if not dataclasses.is_dataclass(getattr(section, f.name))
    ]
    parts += [f"### {prefix.rstrip('.') or 'At the top'}", ""]
    known = seen.setdefault(type(section), (prefix, section))
    if known[1] is not section:
        values = dict(_flatten(section))
        differing = [
            f"`{key}` is {_show(values[key])}" for key, value in _flatten(known[1]) if values[key] != value
        ]
        told = f"; by default {', '.join(differing)}" if differing else ""
        parts += [f"The same settings as `{known[0].rstrip('.')}`{told}.", ""]
        return
    if leaves:
        parts += ["| setting | default | allowed | what it is |", "|---|---|---|---|"]
        parts += [
            _row(f, getattr(section, f.name), comments.get((owners[f.name], f.name), "")) for f in leaves
        ]
        parts.append("")
    for field in dataclasses.fields(section):
        if field not in leaves:
            _add_section(getattr(section, field.name), f"{prefix}{field.name}.", seen, parts)


def _row(field, value, comment):
    return f"| `{field.name}` | {_show(value)} | {_allowed(field, value)} | {_cell(comment)} |"


def _show(value):
    if value is None or isinstance(value, bool):
        return f"`{json.dumps(value)}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _allowed(field, value):
    rules = field.metadata
    if "choices" in rules:
        return ", ".join(dict.fromkeys(map(_show, rules["choices"])))
    if "maximum" in rules:
        return f"{_number(rules['minimum'])} to {_number(rules['maximum'])}"
    return "`true`, `false`" if isinstance(value, bool) else "text" if "form" in rules else ""


def _number(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _cell(text):
    return text.replace("|", "\\|")
