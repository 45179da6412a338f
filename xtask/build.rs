//! Tells the source for which target it is built: the fuzz targets are built for the same one by name, so that the
//! instrumentation flags do not reach build scripts.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=XTASK_TARGET={target}");
}
