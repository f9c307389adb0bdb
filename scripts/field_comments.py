"""A Griffe extension: comments behind fields of a dataclass are their documentation."""

from __future__ import annotations

import re

import griffe

COMMENT = re.compile(r"[^\"'#]*(?:\"[^\"]*\"[^\"'#]*)*#\s*(.+)$")


class FieldComments(griffe.Extension):
    """Append the section `Attributes` to the docstring of a dataclass."""

    def on_class_members(self, *, node, cls, agent, **kwargs) -> None:
        """Read the comment on the line of each field."""
        if not any("dataclass" in str(decorator.value) for decorator in cls.decorators):
            return
        lines = cls.filepath.read_text(encoding="utf-8").splitlines()
        fields = []
        for name, member in cls.members.items():
            if member.is_attribute and member.annotation is not None and not name.startswith("_"):
                found = COMMENT.match(lines[member.endlineno - 1])
                if found:
                    fields.append(f"    {name}: {found[1]}")
        if fields and (cls.docstring is None or "Attributes:" not in cls.docstring.value):
            text = cls.docstring.value.rstrip() if cls.docstring else f"Fields of {cls.name}."
            cls.docstring = griffe.Docstring(
                "\n".join([text, "", "Attributes:", *fields]),
                parent=cls,
                lineno=cls.lineno,
                parser="google",
                parser_options={"warn_missing_types": False},
            )
