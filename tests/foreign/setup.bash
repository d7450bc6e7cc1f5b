# What the scripts beside this one share; to be sourced from the top of the project.

target=${CARGO_TARGET_DIR:-$PWD/target}
# Installed and generated for the tests, nothing else.
foreign=$target/foreign

# Installs Debian packages, where they are not there yet: `debian_packages PACKAGE...`.
debian_packages() {
    local package missing=()
    for package; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null |
            grep -q 'ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}"
}

# Installs Python packages, where they are not there yet: `python_packages FOLDER PACKAGE...`.
# Afterwards $python is a Python that has them.
python_packages() {
    local folder=$foreign/$1 && shift
    python=$folder/bin/python
    [ "$(cat "$folder/installed" 2>/dev/null)" != "$*" ] || return 0
    python3 -c 'import ensurepip, venv' 2>/dev/null || debian_packages python3-venv
    python3 -m venv --clear "$folder"
    "$python" -m pip install --quiet --disable-pip-version-check --pre "$@"
    echo "$*" >"$folder/installed"
}

# Installs Node packages, where they are not there yet: `node_packages FOLDER PACKAGE...`.
# Afterwards $node_path is the folder that holds them.
node_packages() {
    local folder=$foreign/$1 && shift
    node_path=$folder/node_modules
    [ "$(cat "$folder/installed" 2>/dev/null)" != "$*" ] || return 0
    rm -rf "$folder" && mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --loglevel=error "$@"
    echo "$*" >"$folder/installed"
}
