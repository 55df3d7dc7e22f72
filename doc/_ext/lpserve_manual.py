# SPDX-License-Identifier: GPL-2.0-or-later

"""The directives of the manual; what they show is taken from the source.

shell KIND        commands, which a test runs: see blocks.py
message           messages, and what to do about them: see messages.py
findings          all that "lp-serve-setup check" can say
option-list       the options lpserve.*, from Breezy's registry
brz-help NAME     the help of a command
command-usage N   the first parts of it
brz-topic         the help topic "lpserve"
client-usage      what "lp-serve-client --help" prints
text-document F   a text file, its sections as sections
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from typing import Any

from blocks import KINDS
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from messages import collect_findings

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: The name and the text of a part of a command's help.
_HELP_PART = r"^:([^:\n]+):(.*\n(?:\n|[ \t].*\n)*)"


class ManualDirective(Directive):
    """Base of the directives."""

    has_content = True

    def section(self, title: str, *inside: nodes.Node, name: str = "") -> nodes.section:
        """A section, which has *inside* in it."""
        key = nodes.make_id(name or title)
        made = nodes.section(ids=[key], names=[nodes.fully_normalize_name(title)])
        made += nodes.title(title, title)
        made += inside
        return made

    def literal(self, text: str, language: str = "none") -> nodes.literal_block:
        """*text* as it is."""
        made = nodes.literal_block(text, text)
        made["language"] = language
        return made

    def parsed(self, text: str) -> list[nodes.Node]:
        """The nodes for *text*, which is reStructuredText."""
        inside = nodes.Element()
        lines = StringList(text.splitlines(), self.state.document["source"])
        self.state.nested_parse(lines, self.content_offset, inside)
        return list(inside.children)


class Shell(ManualDirective):
    """Commands, with a line that says who types them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        [kind] = self.arguments
        if kind not in KINDS:
            raise self.error(f"no kind of commands: {kind}")
        found: list[nodes.Node] = []
        if KINDS[kind]:
            found.append(nodes.paragraph("", "", nodes.emphasis("", KINDS[kind])))
        return [*found, self.literal("\n".join(self.content), "sh")]


class Message(ManualDirective):
    """Messages, up to the first empty line, and what is said of them."""

    def run(self) -> list[nodes.Node]:
        lines = list(self.content)
        count = lines.index("")
        item = nodes.definition_list_item()
        for line in lines[:count]:
            item += nodes.term("", "", nodes.literal(line, line))
        inside = nodes.definition()
        self.state.nested_parse(self.content[count:], self.content_offset, inside)
        item += inside
        return [nodes.definition_list("", item)]


class Findings(ManualDirective):
    """What "check" can find."""

    def run(self) -> list[nodes.Node]:
        listed = nodes.definition_list()
        for severity, what, remedy in sorted(set(collect_findings(ROOT))):
            text = f"{severity}: {what}"
            term = nodes.term("", "", nodes.literal(text, text))
            remedy = nodes.paragraph(remedy, remedy)
            listed += nodes.definition_list_item("", term, nodes.definition("", remedy))
        return [listed]


class OptionList(ManualDirective):
    """The options, each with its default and help."""

    def run(self) -> list[nodes.Node]:
        from breezy import config
        from breezy.plugins import lpserve

        listed = nodes.definition_list()
        for name in lpserve.OPTIONS:
            option = config.option_registry.get(f"lpserve.{name}")
            shown = f"lpserve.{name}"
            target = nodes.literal(shown, shown)
            term = nodes.term("", "", target, ids=[nodes.make_id(shown)])
            inside = nodes.definition("", nodes.paragraph(option.help, option.help))
            if option.default not in (None, ""):
                default = option.default.replace(",", ", ")
                line = nodes.paragraph("", "Default: ")
                line += nodes.literal(default, default)
                inside += line
            listed += nodes.definition_list_item("", term, inside)
        return [listed]


class Help(ManualDirective):
    """The help of a command, a section for each part of it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from breezy.commands import get_cmd_object

        text = get_cmd_object(self.arguments[0]).get_help_text(plain=False)
        made: list[nodes.Node] = []
        for name, part in re.findall(_HELP_PART, text, re.M):
            part = inspect.cleandoc(part)
            if name == "Purpose":
                made += self.parsed(part)
            elif name in ("Usage", "Options"):
                made.append(
                    self.section(name, self.literal(part), name=self._key(name))
                )
            elif name not in ("From", "See also"):
                inside = self.parsed(part)
                made.append(self.section(name, *inside, name=self._key(name)))
        return made

    def _key(self, name: str) -> str:
        return f"{self.arguments[0]} {name}"


class CommandUsage(ManualDirective):
    """The purpose, usage and options of a command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from breezy.commands import get_cmd_object

        text = get_cmd_object(self.arguments[0]).get_help_text(plain=False)
        parts = dict(re.findall(_HELP_PART, text, re.M))
        usage = inspect.cleandoc(parts["Usage"]).strip()
        shown = f"{usage}\n\n{inspect.cleandoc(parts['Options']).strip()}"
        return [*self.parsed(inspect.cleandoc(parts["Purpose"])), self.literal(shown)]


class Topic(ManualDirective):
    """The help topic."""

    def run(self) -> list[nodes.Node]:
        from breezy.plugins import lpserve

        # A star before a full stop would begin emphasis.
        text = inspect.cleandoc(lpserve.__doc__).replace("*.", "\\*.")
        return self.parsed(text)


class ClientUsage(ManualDirective):
    """The options of the stand-alone client, from its source."""

    def run(self) -> list[nodes.Node]:
        with open(f"{ROOT}/lpserve/client/client.py", encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "USAGE":
                return [self.literal(ast.literal_eval(node.value))]
        raise self.error("lp-serve-client has no USAGE")


class TextDocument(ManualDirective):
    """A text file: the text below each heading as it is."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        with open(f"{ROOT}/doc/{self.arguments[0]}", encoding="utf-8") as file:
            text = file.read()
        parts = re.split(r"^(\S.*)\n(?:=+|-+)\n", text, flags=re.M)
        made: list[nodes.Node] = []
        for title, part in zip(parts[1::2], parts[2::2], strict=True):
            inside = [self.literal(part.strip("\n"))] if part.strip() else []
            made += (
                [self.section(title, *inside)] if made else inside or [nodes.comment()]
            )
        return made


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    import breezy
    from breezy import commands, plugin

    breezy.initialize()
    commands.install_bzr_command_hooks()
    plugin.load_plugins()
    for name, directive in (
        ("shell", Shell),
        ("message", Message),
        ("findings", Findings),
        ("option-list", OptionList),
        ("brz-help", Help),
        ("command-usage", CommandUsage),
        ("brz-topic", Topic),
        ("client-usage", ClientUsage),
        ("text-document", TextDocument),
    ):
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
