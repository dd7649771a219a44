#!/usr/bin/env python3
"""Writes a container image of one layer as a tar of an OCI layout, from files alone: no container engine, no registry.

With --join, an index of images that were written so on machines of several architectures: each machine takes its own of it.

Reproducible: the same files and arguments give the same bytes. What is written is not compressed, as compressors differ.
`ctr images import`, `skopeo copy oci-archive:FILE`, `podman load` and `docker load` (25 and later) read it.
"""
import argparse
import hashlib
import io
import json
import os
import platform
import sys
import tarfile

FOLDERS = {"tmp": 0o1777, "root": 0o700, "home/wherry": 0o700}
ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nwherry:x:65532:65532:wherry:/home/wherry:/sbin/nologin\n",
    "etc/group": "root:x:0:\nwherry:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def pair(text):
    """FILE:PATH or PATH:TARGET, at the last colon."""
    left, colon, right = text.rpartition(":")
    if not colon or not left or not right:
        raise argparse.ArgumentTypeError(f"{text!r} is not two names with a colon between them")
    return left, right


class Layer:
    """The only layer: a tar, sorted by path, every time of it 0, everything root's but the home of the account."""

    def __init__(self):
        self.entries = {}

    def add(self, path, kind, mode, content=b"", target=""):
        path = path.strip("/")
        above = os.path.dirname(path)
        if above and above not in self.entries:
            self.add(above, tarfile.DIRTYPE, FOLDERS.get(above, 0o755))
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), target
        if path == "home/wherry":
            entry.uid = entry.gid = 65532
        if self.entries.setdefault(path, (entry, content))[0].type != kind:
            sys.exit(f"error: {path} would be two things in the image")

    def bytes(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for _, (entry, content) in sorted(self.entries.items()):
                tar.addfile(entry, io.BytesIO(content))
        return out.getvalue()


def image(args):
    """The parts of the layout: path in the archive to content."""
    layer = Layer()
    for path, mode in FOLDERS.items():
        layer.add(path, tarfile.DIRTYPE, mode)
    for path, text in ACCOUNTS.items():
        layer.add(path, tarfile.REGTYPE, 0o644, text.encode())
    for source, path in args.file:
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        with open(source, "rb") as file:
            layer.add(path, tarfile.REGTYPE, mode, file.read())
    for path, target in args.link:
        layer.add(path, tarfile.SYMTYPE, 0o777, target=target)

    parts = {}
    platform_of = {"architecture": ARCHITECTURES.get(args.machine, args.machine), "os": "linux"}
    content = blob(parts, "layer.v1.tar", layer.bytes())
    run = {"Entrypoint": args.entrypoint, "Env": args.env, "User": args.user, "WorkingDir": "/"}
    config = blob(parts, "config.v1+json", as_json({
        **platform_of,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [content["digest"]]},
    }))
    manifest = blob(parts, "manifest.v1+json", as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [content],
    }))
    return layout(parts, args.name, {**manifest, "platform": platform_of})


def joined(args):
    """The parts of the layout of an index of images of several architectures."""
    parts, manifests = {}, []
    for path in args.join:
        try:
            with tarfile.open(path) as tar:
                inside = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
            of_one = json.loads(inside["index.json"])["manifests"]
            machine = of_one[0]["platform"]["architecture"]
        except (OSError, tarfile.TarError, KeyError, ValueError, IndexError) as error:
            sys.exit(f"error: {path} is not an image that scripts/image wrote: {error}")
        if len(of_one) != 1 or any(other["platform"]["architecture"] == machine for other in manifests):
            sys.exit(f"error: {path}: one image of each architecture is wanted, and {machine} is there already")
        manifests.append({key: value for key, value in of_one[0].items() if key != "annotations"})
        parts.update({name: content for name, content in inside.items() if name.startswith("blobs/")})
    index = blob(parts, "index.v1+json", as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": sorted(manifests, key=lambda manifest: manifest["platform"]["architecture"]),
    }))
    return layout(parts, args.name, index)


def as_json(value):
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def blob(parts, media_type, content):
    """Adds it to the parts; its descriptor."""
    digest = hashlib.sha256(content).hexdigest()
    parts[f"blobs/sha256/{digest}"] = content
    return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(content)}


def layout(parts, name, descriptor):
    """The parts of a layout that has one thing, and what that is called; with its digest."""
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    parts["index.json"] = as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**descriptor, "annotations": names}],
    })
    parts["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return parts, descriptor["digest"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the tar that is written")
    parser.add_argument("name", help="of the image, with its tag")
    parser.add_argument("--file", metavar="FILE:PATH", type=pair, action="append", default=[])
    parser.add_argument("--link", metavar="PATH:TARGET", type=pair, action="append", default=[])
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--entrypoint", metavar="WORD", nargs="+", default=[])
    parser.add_argument("--user", default="0:0")
    parser.add_argument("--machine", default=platform.machine(), help="as uname -m names it")
    parser.add_argument("--join", metavar="TAR", action="append", default=[], help="an image of this kind; no other option goes with it")
    args = parser.parse_args()
    parts, digest = joined(args) if args.join else image(args)
    with tarfile.open(args.output, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(parts):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(parts[path]), 0o644
            tar.addfile(entry, io.BytesIO(parts[path]))
    print(f"{args.name} {digest}")


if __name__ == "__main__":
    main()
