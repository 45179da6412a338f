//! The files EAL leaves behind: huge-page files and the runtime directory of one prefix.

use std::fs;
use std::io;
use std::path::Path;

/// Removes both. Only called by the process that was the primary of this prefix, after it let go of everything.
pub(super) fn remove(prefix: &str, runtime_dir: Option<&Path>) {
    for directory in crate::hugetlbfs::mounts() {
        // A file that is already gone, or a mount that is not ours to write: nothing to be done about either.
        let _ = remove_maps(&directory, prefix);
    }
    if let Some(directory) = runtime_dir
        && directory.file_name().is_some_and(|name| name == prefix)
    {
        let _ = fs::remove_dir_all(directory);
    }
}

/// Removes `<prefix>map_<number>` in one directory.
fn remove_maps(directory: &Path, prefix: &str) -> io::Result<()> {
    let start = format!("{prefix}map_");
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&start));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_prefix_s_own_maps_are_removed() {
        let directory = std::env::temp_dir().join(format!("guideway-files-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let names = [
            "guideway-amap_0",
            "guideway-amap_17",
            "guideway-abmap_0",
            "guideway-amap_x",
            "guideway-amap_",
            "rtemap_0",
        ];
        for name in names {
            fs::write(directory.join(name), b"").unwrap();
        }
        remove_maps(&directory, "guideway-a").unwrap();
        let left: Vec<&str> = names.into_iter().filter(|name| directory.join(name).exists()).collect();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(left, ["guideway-abmap_0", "guideway-amap_x", "guideway-amap_", "rtemap_0"]);
    }
}
