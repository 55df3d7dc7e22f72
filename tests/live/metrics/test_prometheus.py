# SPDX-License-Identifier: GPL-2.0-or-later

"""Debian's Prometheus and its promtool read what deploy/ has for them."""

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from breezy.tests import features

from ...harness import DEADLINE, PLUGIN, wait_until
from ..ssh.conchcase import ConchTestCase
from .exportercase import ExporterTestCase

DEPLOY = os.path.join(PLUGIN, "deploy")
prometheus = features.ExecutableFeature("prometheus")
promtool = features.ExecutableFeature("promtool")
#: What opens URLs of this host, whatever the environment says of proxies.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

#: What each alert makes of these values; a minute between two of them.
RULES = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'up{job="lpserve", instance="a"}', values: '1x70'}
      - {series: 'lpserve_up{instance="a"}', values: '1x10 0x60'}
      - {series: 'lpserve_faults_total{instance="a"}', values: '0x10 1x60'}
      - {series: 'lpserve_zygote_deaths_total{instance="a"}', values: '0x70'}
      - {series: 'lpserve_refusals_total{instance="a", code="busy"}', values: '0+60x70'}
      - {series: 'lpserve_refusals_total{instance="a", code="draining"}',
         values: '0+60x70'}
      - {series: 'lpserve_open_fds{instance="a"}', values: '900x70'}
      - {series: 'lpserve_max_fds{instance="a"}', values: '1024x70'}
      - {series: 'lpserve_proportional_memory_bytes{instance="a", process="zygote"}',
         values: '5e9x70'}
      - {series: 'lpserve_connections_total{instance="a", result="ended"}',
         values: '0+9x70'}
      - {series: 'lpserve_connections_total{instance="a", result="failed"}',
         values: '0+1x70'}
      - {series: 'lpserve_connections_total{instance="b", result="ended"}',
         values: '0x70'}
      - {series: 'lpserve_ssh_up{instance="a", listen="[::]:22"}', values: '1x10'}
      - {series: 'lpserve_ssh_up{instance="a", listen="[::]:24"}', values: '0x70'}
    alert_rule_test:
"""
FIRING = {
    *("LpserveDown", "LpserveFaults", "LpserveRefusals", "LpserveDescriptors"),
    *("LpserveMemory", "LpserveFailedConnections", "LpserveSshGone"),
    "LpserveSshHangs",
}


def metric_names(expression):
    """The names of our metrics in an expression."""
    return set(re.findall(r"\blpserve_\w+", expression))


class TestRules(ExporterTestCase):
    def setUp(self):
        super().setUp()
        self.requireFeature(promtool)

    def promtool(self, *words, stdin=b""):
        """Run it; it must find nothing, and say nothing against what it reads."""
        done = self.run_program(["promtool", *words], stdin)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return done

    def test_metrics(self):
        """What it says of the names, the units and the texts of all of them."""
        self.start_service()
        self.start_exporter()
        text = self.get("/metrics")
        self.assertContainsString(text, "lpserve_hand_over_seconds_bucket")
        done = self.promtool("check", "metrics", stdin=text.encode())
        self.assertEqual((b"", b""), (done.stdout, done.stderr))

    def test_configuration(self):
        path = os.path.join(DEPLOY, "prometheus.yml")
        done = self.promtool("check", "config", path)
        self.assertContainsString(done.stdout.decode(), "rules found")
        self.promtool("check", "rules", os.path.join(DEPLOY, "alerts.yml"))

    def test_alerts(self):
        """What fires where something is wrong, and nothing else."""
        shutil.copy(os.path.join(DEPLOY, "alerts.yml"), self.test_dir)
        with open(os.path.join(DEPLOY, "alerts.yml")) as file:
            names = re.findall(r"- alert: (\w+)", file.read())
        self.assertEqual(set(), FIRING - set(names))
        path = os.path.join(self.test_dir, "test.yml")
        with open(path, "w") as file:
            file.write(RULES)
            for name in names:
                file.write(f"      - {{alertname: {name}, eval_time: 65m}}\n")
        done = self.run_program(["promtool", "test", "rules", path])
        text = done.stdout.decode() + done.stderr.decode()
        fired = re.findall(r"(?s)alertname: (\w+), time: 1h5m,\s+exp:\[\s*\],", text)
        self.assertEqual(FIRING, set(fired), text)


class TestScrape(ConchTestCase, ExporterTestCase):
    """Of a service with an lp-serve-ssh in front of it."""

    def setUp(self):
        super().setUp()
        self.requireFeature(prometheus)

    def start_prometheus(self):
        """Start it with our configuration, but for port and interval."""
        for name in ("prometheus.yml", "alerts.yml"):
            shutil.copy(os.path.join(DEPLOY, name), self.test_dir)
        path = os.path.join(self.test_dir, "prometheus.yml")
        with open(path) as file:
            text = file.read()
        self.assertEqual(1, text.count("127.0.0.1:9852"))
        text = text.replace("127.0.0.1:9852", f"127.0.0.1:{self.port}")
        with open(path, "w") as file:
            file.write("global: {scrape_interval: 1s, evaluation_interval: 1s}\n")
            file.write(text)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.api = free.getsockname()[1]
        started = self.start_words(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={self.test_dir}/tsdb",
                f"--web.listen-address=127.0.0.1:{self.api}",
            ],
            dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
        )
        self.addCleanup(started.terminate)

    def ask_prometheus(self, path, **query):
        """The data of an answer of its API; None while there is none."""
        url = f"http://127.0.0.1:{self.api}/api/v1/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        try:
            with _opener.open(url, timeout=DEADLINE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code != 503:  # it starts
                raise AssertionError(f"{query}: {error.read()}") from None
        except OSError:
            pass
        return None

    def values(self, expression):
        """The values of an expression."""
        found = self.ask_prometheus("query", query=expression)
        return [float(each["value"][1]) for each in found["result"]] if found else []

    def test_scrape(self):
        """Prometheus has what happened; dashboard and alerts name what there is."""
        self.start_service()
        self.start_server()
        self.start_exporter()
        self.start_prometheus()
        wait_until(lambda: self.values("lpserve_up") == [1], "it has asked once")
        first, other = self.serve("alice", "bob")
        name = 'lpserve_workers{state="busy"}'
        wait_until(lambda: self.values(name) == [2], "both are there")
        self.finish(first, other)
        name = 'sum without (door) (lpserve_connections_total{result="ended"})'
        wait_until(lambda: self.values(name) == [2], "both are over")
        self.assertEqual([2], self.values("lpserve_hand_over_seconds_count"))
        quantile = "histogram_quantile(0.9, lpserve_hand_over_seconds_bucket)"
        [value] = self.values(quantile)
        self.assertTrue(0 < value < 30, value)
        wait_until(lambda: self.values("lpserve_ssh_up") == [1], "so is lp-serve-ssh")
        known = set(self.ask_prometheus("label/__name__/values"))
        for expression in [*self.of_alerts(), *self.of_dashboard()]:
            names = metric_names(expression)
            self.assertEqual(set(), names - known, expression)
            self.assertIsNot(None, self.ask_prometheus("query", query=expression))
        shown = {name for each in self.of_dashboard() for name in metric_names(each)}
        told = set(re.findall(r"(?m)^# TYPE (lpserve_\w+) ", self.get("/metrics")))
        parts = re.compile("_(bucket|sum|count)$")
        shown = {parts.sub("", name) for name in shown}
        left = {"lpserve_exporter_build_info", "lpserve_stopping"}
        self.assertEqual(left, told - shown)

    def of_alerts(self):
        """The expressions of the rules, as Prometheus has read them."""
        found = self.ask_prometheus("rules")["groups"]
        rules = [rule for group in found for rule in group["rules"]]
        self.assertTrue(len(rules) > 10)
        return [rule["query"] for rule in rules]

    def of_dashboard(self):
        """The expressions of the dashboard, with what Grafana puts into them."""
        with open(os.path.join(DEPLOY, "grafana.json")) as file:
            board = json.load(file)
        panels = [each for each in board["panels"] if each["type"] != "row"]
        self.assertTrue(len(panels) > 20)
        self.assertEqual(len(board["panels"]), len({x["id"] for x in board["panels"]}))
        found = [target["expr"] for each in panels for target in each["targets"]]
        found += [each["expr"] for each in board["annotations"]["list"]]
        return [
            each.replace("$__rate_interval", "1m").replace("$instance", ".*")
            for each in found
        ]
