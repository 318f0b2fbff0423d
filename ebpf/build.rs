//! Compiles every `src/*.bpf.c` and `src/collectors/*.bpf.c` for the BPF target and turns `src/cgfleet.h` into Rust types.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The compilers that will do, best first.
const CLANGS: [&str; 6] = ["clang-19", "clang", "clang-18", "clang-17", "clang-16", "clang-15"];

const SOURCE_SUFFIX: &str = ".bpf.c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let clang = find_clang()?;
    for source in sources("src")? {
        compile(&clang, &source, &out.join(object_name(&source)))?;
    }
    let mut collectors = String::new();
    for source in sources("src/collectors")? {
        let object = out.join(object_name(&source));
        compile(&clang, &source, &object)?;
        let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.trim_end_matches(SOURCE_SUFFIX);
        writeln!(collectors, "({name:?}, include_bytes!({:?})),", object.display().to_string())?;
    }
    fs::write(out.join("collectors.rs"), format!("&[{collectors}]"))?;
    bindgen::Builder::default()
        .header("src/cgfleet.h")
        .clang_arg(arch_include()?)
        .allowlist_file("src/cgfleet.h")
        .derive_default(true)
        // Long arrays have no Default of the standard library's.
        .no_default("cg_name|cg_details|cg_memory_stat|cg_facts|cg_view|cg_removed")
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate()?
        .write_to_file(out.join("cgfleet.rs"))?;
    Ok(())
}

/// The programs of a directory, by name.
fn sources(directory: &str) -> io::Result<Vec<PathBuf>> {
    let entries: io::Result<Vec<_>> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect();
    let mut sources = entries?;
    sources.retain(|path| path.to_str().is_some_and(|path| path.ends_with(SOURCE_SUFFIX)));
    sources.sort();
    Ok(sources)
}

fn object_name(source: &Path) -> PathBuf {
    Path::new(source.file_name().unwrap_or_default()).with_extension("o")
}

fn find_clang() -> Result<String, Box<dyn Error>> {
    let named = env::var("CLANG").ok();
    let runs =
        |clang: &String| Command::new(clang).arg("--version").output().is_ok_and(|out| out.status.success());
    named.into_iter().chain(CLANGS.map(str::to_owned)).find(runs).ok_or_else(|| {
        "no clang to compile BPF programs with; run `cargo xtask install`, or set CLANG".into()
    })
}

fn compile(clang: &str, source: &Path, object: &Path) -> Result<(), Box<dyn Error>> {
    // -g for the BTF that CO-RE needs. v3 is the newest instruction set that every kernel from 6.1 has.
    let output = Command::new(clang)
        .args(["-target", "bpf", "-g", "-O2", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"])
        .arg(arch_include()?)
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{clang} {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr)).into())
}

/// Debian keeps the architecture's `asm/` headers in a directory that `-target bpf` does not search.
fn arch_include() -> Result<String, env::VarError> {
    Ok(format!("-I/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?))
}
