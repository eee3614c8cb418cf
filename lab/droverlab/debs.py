"""Debian packages, downloaded and unpacked under build/ with nothing of them installed.

apt runs here with directories of its own, so the machine's sources, lists and packages stay as
they are. Its sources are derived from the machine's own: the same mirrors, keys and options.
"""

import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from .paths import CACHE, LabError

APT = CACHE / "apt"
LISTS_MAX_AGE_S = 7 * 24 * 3600
BACKPORTS = "backports"
# Options of a one-line entry whose names in deb822 are others.
OPTION_FIELDS = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}


def codename():
    """The release of this machine, "bookworm"."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    raise LabError("/etc/os-release names no VERSION_CODENAME: the lab needs a Debian system.")


def _stanzas(text, release):
    """The deb822 entries that serve `release` itself, each as a dict in the file's order."""
    for block in re.split(r"\n\s*\n", text):
        fields, key = {}, None
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and key:
                fields[key] += "\n" + line
            elif ":" in line:
                key, value = line.split(":", 1)
                fields[key] = value.strip()
        names = {name.lower(): name for name in fields}
        if "suites" not in names or fields.get(names.get("enabled"), "yes") == "no":
            continue
        if release in fields[names["suites"]].split():
            yield fields, names


def _from_deb822(text, release, suites):
    entries = []
    for fields, names in _stanzas(text, release):
        fields[names["suites"]] = " ".join(suites)
        fields[names["types"]] = "deb"
        if "components" in names:
            fields[names["components"]] = "main"
        entries.append("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return entries


def _from_list(text, release, suites):
    entries = []
    pattern = re.compile(r"^deb\s+(\[[^]]*\]\s+)?(\S+)\s+" + re.escape(release) + r"\s")
    for line in text.splitlines():
        match = pattern.match(line.strip() + " ")
        if match:
            options, uri = (match.group(1) or "").strip("[] \t"), match.group(2)
            entry = f"Types: deb\nURIs: {uri}\nSuites: {' '.join(suites)}\nComponents: main\n"
            for option in options.split():
                key, _, value = option.partition("=")
                entry += f"{OPTION_FIELDS.get(key, key)}: {value.replace(',', ' ')}\n"
            entries.append(entry)
    return entries


def sources(endings=("", "-updates", f"-{BACKPORTS}"), etc=Path("/etc/apt")):
    """deb822 text for this release, its updates and its backports, from the machine's sources."""
    release = codename()
    suites = [release + ending for ending in endings]
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    entries = []
    for file in files:
        if file.suffix == ".sources":
            entries += _from_deb822(file.read_text(), release, suites)
        elif file.suffix == ".list" and file.exists():
            entries += _from_list(file.read_text(), release, suites)
    if not entries:
        raise LabError(
            f"No apt source of this machine serves {release}; add one to /etc/apt/sources.list.d.")
    return "\n".join(dict.fromkeys(entries)).rstrip() + "\n"


class Apt:
    """apt-get with directories of its own under build/cache/apt. Use with `with`: one at a time."""

    def __init__(self):
        self.options = []

    def __enter__(self):
        for name in ("lists/partial", "archives/partial", "etc"):
            (APT / name).mkdir(parents=True, exist_ok=True)
        self.lock = open(APT / "lock", "w", encoding="ascii")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        source_list = APT / "etc" / "lab.sources"
        text = sources()
        if not source_list.exists() or source_list.read_text() != text:
            source_list.write_text(text)
            shutil.rmtree(APT / "lists")
            (APT / "lists/partial").mkdir(parents=True)
        (APT / "status").touch()
        settings = {
            "Dir::State": APT,
            "Dir::State::status": APT / "status",
            "Dir::Cache": APT,
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": APT / "etc",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",
            "APT::Update::Post-Invoke::": "true",
        }
        self.options = [f"-o{key}={value}" for key, value in settings.items()]
        return self

    def __exit__(self, *exc):
        self.lock.close()

    def _run(self, *args, cwd=None):
        run = subprocess.run([args[0], *self.options, *args[1:]], cwd=cwd, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                             env={**os.environ, "LC_ALL": "C"})
        if run.returncode != 0:
            raise LabError(f"{' '.join(args)} failed: {run.stdout.strip()[-2000:]}")
        return run.stdout

    def update(self, force=False):
        """Fetches the package lists when there are none, or old ones."""
        stamp = APT / "updated"
        fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_MAX_AGE_S
        if force or not fresh or not any((APT / "lists").glob("*Packages*")):
            self._run("apt-get", "-q", "update")
            stamp.touch()

    def versions(self, package):
        """{version: suites} of what the sources offer."""
        found = {}
        for line in self._run("apt-cache", "madison", package).splitlines():
            fields = [part.strip() for part in line.split("|")]
            if len(fields) == 3 and fields[2].endswith("Packages"):
                found.setdefault(fields[1], []).append(fields[2].split()[1].split("/")[0])
        return found

    def newest(self, package, backports=False):
        """The newest version of this release, or of its backports where they have the package."""
        versions = self.versions(package)  # newest first
        for wanted in (True, False) if backports else (False,):
            for version, suites in versions.items():
                if wanted == any(suite.endswith(BACKPORTS) for suite in suites):
                    return version
        raise LabError(f"The apt sources of this machine have no package {package}.")

    def depends(self, package, version):
        """Names of packages that this version depends on directly."""
        text = self._run("apt-cache", "show", f"{package}={version}")
        names = []
        for line in text.splitlines():
            if line.startswith(("Depends:", "Pre-Depends:")):
                for part in line.split(":", 1)[1].split(","):
                    names.append(part.split("|")[0].split("(")[0].split(":")[0].strip())
        return names

    def fetch(self, package, version):
        """The .deb file of exactly this version; downloaded unless it is in the cache."""
        debs = CACHE / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        pattern = f"{package}_{version.replace(':', '%3a')}_*.deb"
        if not any(debs.glob(pattern)):
            part = debs / "part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                self._run("apt-get", "-q", "download", f"{package}={version}", cwd=part)
            except LabError:
                # The list may name a version that the mirror has replaced meanwhile.
                self.update(force=True)
                raise
            for deb in part.glob("*.deb"):
                deb.rename(debs / deb.name)
            part.rmdir()
        return next(debs.glob(pattern))


def unpack(deb, directory):
    """Unpacks a .deb's files, with nothing of it run."""
    subprocess.run(["dpkg-deb", "-x", str(deb), str(directory)], check=True)
