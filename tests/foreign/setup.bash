# What the scripts beside this one share; to be sourced from the top of the project.

target=${CARGO_TARGET_DIR:-$PWD/target}
# Installed and generated for the tests, nothing else.
foreign=$target/foreign

# Installs Python packages, where they are not there yet: `python_packages FOLDER PACKAGE...`.
# Afterwards $python is a Python that has them.
python_packages() {
    local folder=$foreign/$1 && shift
    python=$folder/bin/python
    if [ "$(cat "$folder/installed" 2>/dev/null)" != "$*" ]; then
        python3 -m venv --clear "$folder"
        "$python" -m pip install --quiet --disable-pip-version-check --pre "$@"
        echo "$*" >"$folder/installed"
    fi
}

# Installs Node packages, where they are not there yet: `node_packages FOLDER PACKAGE...`.
# Afterwards $node_path is the folder that holds them.
node_packages() {
    local folder=$foreign/$1 && shift
    node_path=$folder/node_modules
    if [ "$(cat "$folder/installed" 2>/dev/null)" != "$*" ]; then
        rm -rf "$folder" && mkdir -p "$folder"
        npm install --prefix "$folder" --no-audit --no-fund --loglevel=error "$@"
        echo "$*" >"$folder/installed"
    fi
}
