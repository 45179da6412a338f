// Part of build scripts: this crate's own, and the workspace's build.rs.

/// Oldest DPDK whose structures and function names are known here.
pub(crate) const VERSION_MIN: &str = "22.11";

/// Finds libdpdk by pkg-config. With `link`, what it takes to link it goes to cargo.
///
/// # Errors
/// One line for the user: what is missing, and what installs it.
pub(crate) fn find(link: bool) -> Result<pkg_config::Library, String> {
    let found = pkg_config::Config::new().atleast_version(VERSION_MIN).cargo_metadata(link).probe("libdpdk");
    found.map_err(|error| {
        let reason = match error {
            pkg_config::Error::Command { .. } => "pkg-config does not start",
            _ => "pkg-config finds none",
        };
        format!(
            "libdpdk {VERSION_MIN} or newer with its headers is needed, and {reason}: dpdk-setup/packages.sh installs it \
             (Debian's libdpdk-dev, pkg-config, clang and libclang-dev); for a DPDK of your own, put the directory of its \
             libdpdk.pc into PKG_CONFIG_PATH"
        )
    })
}
