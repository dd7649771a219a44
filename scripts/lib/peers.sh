# The programs that scripts/bench compares wherry with, each in one exact version, built once into the cache.
# Source common.sh and setup.sh first.

peers=$cache/peers
restic_version=v0.19.1
kopia_version=v0.23.1
borg_version=1.4.5
rustic_version=0.11.4
lz4_version=4.4.5 # bench computes the lz4 size of the distinct chunks itself

# setup_peer NAME: restic, kopia, borg or rustic; built if the cache does not have that version.
setup_peer() {
  local name=$1 version=${1}_version
  version=${!version}
  [ "$(cat "$peers/$name.version" 2>/dev/null)" = "$version" ] && return 0
  say "building $name $version into $peers (once)"
  mkdir -p "$peers/bin"
  strictly "build_$name" "$version" >"$peers/$name.log" 2>&1
  [ "$status" = 0 ] || die "$name $version could not be built: see $peers/$name.log"
  echo "$version" >"$peers/$name.version"
}

build_restic() { build_go github.com/restic/restic "$1" github.com/restic/restic/cmd/restic restic; }
build_kopia() { build_go github.com/kopia/kopia "$1" github.com/kopia/kopia kopia -tags nohtmlui; }

# build_go MODULE VERSION PACKAGE NAME FLAG...: in a module of its own, as `go install` refuses modules with replacements.
build_go() {
  local module=$1 version=$2 package=$3 name=$4 dir
  shift 4
  command -v go >/dev/null || die "go is missing: install Go 1.24 or newer"
  dir=$(mktemp -d "$peers/build.XXXXXX")
  cd "$dir"
  go mod init bench.local
  go get "$module@$version"
  nice go build -p 1 -trimpath -mod=mod "$@" -o "$peers/bin/$name" "$package"
  rm -rf "$dir"
}

build_borg() {
  need_packages python3:python3 gcc:build-essential pkg-config:pkg-config
  python3 -m venv --clear "$peers/venv"
  if ! "$peers/venv/bin/pip" install --quiet --only-binary :all: "borgbackup==$1"; then
    install_packages libssl-dev libacl1-dev liblz4-dev libzstd-dev libxxhash-dev python3-dev
    nice "$peers/venv/bin/pip" install --quiet "borgbackup==$1"
  fi
  "$peers/venv/bin/pip" install --quiet "lz4==$lz4_version"
  ln -sf ../venv/bin/borg "$peers/bin/borg"
}

build_rustic() {
  CARGO_TARGET_DIR=$peers/build-rustic nice cargo install --quiet --locked --jobs 1 --no-default-features --root "$peers" "rustic-rs@$1"
  rm -rf "$peers/build-rustic"
}
