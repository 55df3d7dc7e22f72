# SPDX-License-Identifier: GPL-2.0-or-later

"""What clients have written gives them no access that their requests lack."""

import inspect
import os
import stat

from breezy import config, directory_service, lockdir
from breezy.branch import Branch
from breezy.tests import TestCase

from ...lpserve.errors import ClientError
from ...lpserve.serving import adaptation
from ...lpserve.serving.adaptation import ClientSection
from .smartcase import FORMATS, Request, SmartTestCase
from .smartverbs import DIRECTORY_FORMAT, REPOSITORY_FORMAT

#: Options that Breezy and the plug-ins that come with it know, and that say something
#: of a branch and not of the account that serves it.
OF_A_BRANCH = (
    *("acceptable_keys", "add.maximum_file_size", "append_revisions_only", "bound"),
    *("bound_location", "branch.fetch_tags", "bugtracker", "calculate_revnos"),
    *("bzr.workingtree.worth_saving_limit", "check_signatures", "child_submit_format"),
    *("child_submit_to", "commit.template_from_files", "create_signatures"),
    *("default_format", "dirstate.fdatasync", "language", "locks.steal_dead"),
    *("log_format", "output_encoding", "parent_location", "progress_bar"),
    *("public_branch", "push_location", "push_strict", "repository.fdatasync"),
    *("selftest.timeout", "send_strict", "stacked_on_location", "submit_branch"),
    *("submit_to", "suppress_warnings", "transform.orphan_policy"),
    "validate_signatures_in_log",
)


class TestSection(TestCase):
    """`ClientSection`: a branch's configuration says nothing of the account."""

    def test_every_option(self):
        section = ClientSection(None, dict.fromkeys(config.option_registry.keys(), "x"))
        told = {name for name in section.iter_option_names() if section.get(name)}
        self.assertEqual(set(), told - set(OF_A_BRANCH))

    def test_of_a_plugin(self):
        """An option that somebody else's plug-in has is its business."""
        self.assertEqual("x", ClientSection(None, {"ci_target": "x"}).get("ci_target"))


class TestAdapt(TestCase):
    def test_as_before(self):
        names = [(owner, name) for owner, name, _ in adaptation._ADAPTED]
        before = [inspect.getattr_static(*each) for each in names]
        changed = adaptation.adapt()
        self.assertEqual(0, lockdir._DEFAULT_TIMEOUT_SECONDS)
        self.assertEqual([], adaptation.adapt())
        adaptation.restore([])
        self.assertEqual(0, lockdir._DEFAULT_TIMEOUT_SECONDS)
        adaptation.restore(changed)
        self.assertEqual(before, [inspect.getattr_static(*each) for each in names])


class ServedCase(SmartTestCase):
    """With a server that may be written to."""

    def setUp(self):
        super().setUp()
        os.mkdir("root")
        self.server = self.make_server("root", True)

    def request(self, *words, body=None, format=3):
        return self.ask(self.server, Request(words, body), format)


class TestConfiguration(ServedCase):
    def setUp(self):
        super().setUp()
        self.make_branch("root/branch")
        # An option of the account, which only it knows.
        config.GlobalStack().set("smtp_password", "topsecret")
        config.GlobalStack().store.save_changes()

    def parent(self, *lines):
        """What the server tells of a branch that has these lines."""
        path = "root/branch/.bzr/branch/branch.conf"
        self.build_tree_contents([(path, "".join(f"{line}\n" for line in lines))])
        return self.request(b"Branch.get_parent", b"branch").words

    def test_reference(self):
        words = self.parent("parent_location = x/{smtp_password}/{lpserve.directory}")
        self.assertNotIn(b"topsecret", b"".join(words))

    def test_billion_laughs(self):
        lines = ["a0 = haha"]
        lines += [f"a{n} = {{a{n - 1}}}{{a{n - 1}}}" for n in range(1, 60)]
        words = self.parent(*lines, "parent_location = {a59}")
        self.assertNotIn(b"haha", b"".join(words))

    def test_reference_by_way_of_the_account(self):
        """What the account puts into an option of its own is not expanded either."""
        config.GlobalStack().set("public_branch", "http://host/{nickname}")
        config.GlobalStack().store.save_changes()
        self.parent("nickname = {smtp_password}")
        changed = adaptation.adapt()
        self.addCleanup(adaptation.restore, changed)
        stack = Branch.open("root/branch").get_config_stack()
        self.assertRaises(config.ExpandingUnknownOption, stack.get, "public_branch")
        self.parent("nickname = {plain")
        self.assertRaises(
            config.ExpandingUnknownOption,
            Branch.open("root/branch").get_config_stack().get,
            "public_branch",
        )
        self.parent("nickname = plain")
        stack = Branch.open("root/branch").get_config_stack()
        self.assertEqual("http://host/plain", stack.get("public_branch"))

    def test_reference_of_the_account(self):
        """The account's own references mean what they did."""
        config.GlobalStack().set("public_branch", "http://host/{smtp_password}")
        config.GlobalStack().store.save_changes()
        changed = adaptation.adapt()
        self.addCleanup(adaptation.restore, changed)
        self.assertEqual(
            "http://host/topsecret", config.GlobalStack().get("public_branch")
        )


class TestGit(ServedCase):
    """A git repository includes no file of the host in its configuration."""

    def configure(self, *lines):
        for name in ("objects", "refs/heads", "info"):
            os.makedirs(f"root/git/{name}", exist_ok=True)
        self.build_tree_contents(
            [
                ("root/git/HEAD", "ref: refs/heads/master\n"),
                ("root/git/config", "".join(f"{line}\n" for line in lines)),
            ]
        )

    def test_include(self):
        secret = os.path.abspath("secret")
        self.build_tree_contents([("secret", "root:secret\n")])
        self.configure("[core]", "bare = true", "[include]", f"path = {secret}")
        there = self.request(b"Branch.get_parent", b"git")
        self.assertNotIn(b"secret", b"".join(there.words))
        os.unlink(secret)
        self.assertEqual(there, self.request(b"Branch.get_parent", b"git"))

    def test_account(self):
        """Nor does it have the account's."""
        self.overrideEnv("HOME", os.path.abspath("home"))
        os.mkdir("home")
        lines = '[remote "origin"]\nurl = https://me:secret@host/x\n'
        self.build_tree_contents([("home/.gitconfig", lines)])
        self.configure("[core]", "bare = true")
        words = self.request(b"Branch.get_parent", b"git").words
        self.assertNotIn(b"secret", b"".join(words))


class TestLocations(ServedCase):
    def test_directory_service(self):
        """Nobody is asked what the name of a project stands for."""
        asked = []

        class Spy:
            def look_up(self, name, url, purpose=None):
                asked.append(name)
                return "file:///nowhere"

        directories = directory_service.directories
        directories.register("spy:", Spy)
        self.addCleanup(directories.remove, "spy:")
        words = (DIRECTORY_FORMAT, b"new", b"True", b"True", b"True", b"spy:x", b"")
        words += (REPOSITORY_FORMAT, b"True", b"False")
        self.request(b"BzrDirFormat.initialize_ex_1.16", *words)
        self.assertEqual([], asked)


class TestLocks(ServedCase):
    def test_break_lock(self):
        """It is the client that breaks a lock, because its user can be asked."""
        branch = self.make_branch("root/branch")
        self.addCleanup(branch.lock_write().unlock)
        for verb in (b"Branch.break_lock", b"Repository.break_lock"):
            words = self.request(verb, b"branch").words
            self.assertEqual([b"UnknownMethod", verb], words)
        self.assertTrue(branch.get_physical_lock_status())


class TestFiles(ServedCase):
    def mode(self, name):
        return stat.S_IMODE(os.stat(f"root/{name}").st_mode)

    def test_modes(self):
        """A client makes no program that is run as the server's account."""
        self.addCleanup(os.umask, os.umask(0))
        for verb in (b"put", b"put_non_atomic"):
            words = (verb, b"file", b"%d" % 0o6755)
            words += (b"F", b"") if verb == b"put_non_atomic" else ()
            self.assertTrue(self.request(*words, body=b"x").good)
            self.assertEqual(0o755, self.mode("file"))
            os.unlink("root/file")
        self.assertTrue(self.request(b"mkdir", b"directory", b"%d" % 0o7775).good)
        self.assertEqual(0o2775, self.mode("directory"))

    def test_no_file(self):
        """Nobody waits for the other end of a FIFO."""
        os.mkfifo("root/fifo")
        os.mkdir("root/directory")
        for name, error in (
            (b"fifo", b"PermissionDenied"),
            (b"directory", b"ReadError"),
            (b"missing", b"NoSuchFile"),
        ):
            self.assertEqual(error, self.request(b"get", name).words[0])

    def test_long_path(self):
        """What is said of a path that is no path is not longer than one."""
        for format in FORMATS[1:]:
            words = self.request(b"get", b"%2f/" + b"a" * 500_000, format=format).words
            self.assertEqual(b"NoSuchFile", words[0])
            self.assertTrue(len(words[1]) <= 4096)

    def test_endless_length(self):
        data = b"bzr request 2\nput\x01x\x01\n" + b"1" * 5000 + b"\n"
        self.exchange(self.server, data)
        self.assertIsInstance(self.error, ClientError)
