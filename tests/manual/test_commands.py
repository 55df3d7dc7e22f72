# SPDX-License-Identifier: GPL-2.0-or-later

"""The commands of the manual, page by page, with a real service.

Those that need root or another machine are run by packaging/trymanual.py.
"""

import os
import pwd
import re
import shlex
import socket
import subprocess
import sys

from breezy.tests import features

from ..harness import DEADLINE, PLUGIN, LiveTestCase
from .sources import load, pages

ssh_keygen = features.ExecutableFeature("ssh-keygen")

#: Pages that do not start a service themselves have one.
STARTS = "lp-serve --fork-server --daemon"

#: In the place of ssh. A login at port 22 has what sshd would run: the command of the
#: first line of authorized_keys.
SSH = """\
#!/bin/sh
[ "$1" = -V ] && echo OpenSSH_9 >&2 && exit
case " $* " in
*" -p "*) exec /usr/bin/ssh -F {config} "$@" ;;
esac
forced=$(sed -n '1s/^command="\\([^"]*\\)",.*/\\1/p' {home}/.ssh/authorized_keys)
SSH_ORIGINAL_COMMAND="bzr serve --inet --directory=/ --allow-writes"
export SSH_ORIGINAL_COMMAND
exec sh -c "$forced"
"""

#: How the page on lp-serve-ssh starts it, and what is done here until it listens.
SERVER = "brz lp-serve-ssh &\n"
STARTED = """\
brz lp-serve-ssh 2>ssh.log &
while ! grep -q Listening ssh.log; do kill -0 $!; sleep 0.05; done
"""
#: What ends that server.
ENDING = "trap 'for job in $(jobs -p); do kill $job; wait $job || true; done' EXIT"


class TestCommands(LiveTestCase):
    _test_needs_features = [ssh_keygen]

    def setUp(self):
        super().setUp()
        self.blocks = load("blocks")
        self.bin = os.path.join(self.test_dir, "bin")
        self.etc = os.path.join(self.test_dir, "etc")
        # The home directory of Breezy as of everything else.
        self.user_home = os.path.join(self.test_dir, "user-home")
        self.config = os.path.join(self.user_home, ".config", "breezy", "breezy.conf")
        for path in (self.bin, self.etc, os.path.dirname(self.config)):
            os.makedirs(path, mode=0o755)
        os.makedirs(os.path.join(self.user_home, ".ssh"), mode=0o700)
        for path in (self.test_dir, self.user_home, self.etc):
            os.chmod(path, 0o755)

    @property
    def env(self):
        found = super().env
        del found["BRZ_HOME"]
        return {
            **found,
            "HOME": self.user_home,
            "PATH": f"{self.bin}:{found['PATH']}",
            "BRZ_EMAIL": "alice <alice@example.com>",
            "XDG_CACHE_HOME": os.path.join(self.test_dir, "cache"),
        }

    def program(self, name, text):
        path = os.path.join(self.bin, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def prepare(self):
        """Programs and keys, as they are on a host and at home."""
        python = shlex.quote(sys.executable)
        self.program("brz", f'#!/bin/sh\nexec {python} -m breezy "$@"\n')
        config = os.path.join(self.test_dir, "ssh_config")
        key = os.path.join(self.test_dir, "alice")
        with open(config, "w") as file:
            file.write(
                f"IdentityFile {key}\nIdentitiesOnly yes\nStrictHostKeyChecking no\n"
                "UserKnownHostsFile /dev/null\nLogLevel ERROR\n"
            )
        self.program("ssh", SSH.format(config=config, home=self.user_home))
        for name in ("alice", "bob"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name]
            subprocess.run(words, cwd=self.test_dir, check=True)
        self.configure(
            directory=self.root, allow_writes=True, warm_repositories=0, spare_workers=1
        )

    def commands(self, page):
        """The commands of a page; of README those of an account with pipx."""
        if page == "README":
            with open(os.path.join(PLUGIN, "README"), encoding="utf-8") as file:
                part = file.read().partition("as the account that serves")[2]
            return "".join(re.findall(r"^    (.*\n)", part, re.M))
        return "".join(
            block.text
            for block in self.blocks.find_blocks(pages()[page])
            if block.kind in self.blocks.RUN_IN_CHECK
        )

    def script(self, page):
        """The commands of a page, for this directory instead of a host's."""
        text = self.commands(page)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Root would have to say so.
        account = pwd.getpwuid(os.geteuid()).pw_name
        text = text.replace(SERVER, STARTED)
        for there, here in (
            (" lp-serve-setup ", f" lp-serve-setup --account={account} "),
            ("/srv/bzr", self.root),
            ("/etc/lpserve", self.etc),
            ("/var/log/lpserve", self.etc),
            ("127.0.0.1:5022", f"127.0.0.1:{port}"),
        ):
            text = text.replace(there, here)
        return text

    def run_page(self, page):
        self.prepare()
        text = self.script(page)
        self.assertNotEqual("", text)
        if STARTS not in text:
            self.start_service()
        with open(os.path.join(self.test_dir, "output"), "wb") as output:
            done = subprocess.run(
                ["bash", "-c", f"set -eu\n{ENDING}\n{text}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self.env, **self.rehearsed()},
                cwd=self.test_dir,
                timeout=DEADLINE * 3,
                check=False,
            )
        with open(os.path.join(self.test_dir, "output")) as output:
            said = output.read()
        if STARTS in text:
            self.run_program(self.brz("lp-serve-control", "shutdown", "--now"))
        self.assertEqual(0, done.returncode, f"{said}\n{text}")
        return said

    def test_quickstart(self):
        said = self.run_page("quickstart")
        self.assertIn("bob", said)
        self.assertPathExists("copy/.bzr")
        self.assertPathExists("user-home/branches/hello/.bzr")

    def test_readme(self):
        self.assertIn("alice: SHA256:", self.run_page("README"))

    def test_installing(self):
        said = self.run_page("installing")
        self.assertIn("lpserve.service", said)
        self.assertIn("lp-serve-client ", said)

    def test_access(self):
        said = self.run_page("access")
        self.assertIn("rw (", said)
        self.assertIn("none (", said)

    def test_openssh(self):
        self.run_page("openssh")
        self.assertPathExists("root/project/.bzr")

    def test_lp_serve_ssh(self):
        self.run_page("lp-serve-ssh")
        self.assertPathExists("copy/.bzr")

    def test_operating(self):
        said = self.run_page("operating")
        self.assertIn("back at noon", said)
        self.assertEqual(0, self.service.wait(DEADLINE))

    def test_hosts(self):
        self.assertIn("back in five minutes", self.run_page("hosts"))

    def test_settings(self):
        self.assertIn("lpserve", self.run_page("settings"))

    def test_migrating(self):
        self.assertIn("1 sections, 1 groups", self.run_page("migrating"))

    def test_troubleshooting(self):
        self.assertIn("healthy", self.run_page("troubleshooting"))

    def test_all_pages(self):
        """Each page with commands for here has a test."""
        mine = {name[len("test_") :].replace("_", "-") for name in dir(self)}
        for page, text in pages().items():
            kinds = {block.kind for block in self.blocks.find_blocks(text)}
            if kinds & set(self.blocks.RUN_IN_CHECK):
                self.assertIn(page, mine)
