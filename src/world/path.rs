//! Paths of a machine's disk: relative, `/`-separated, and never above the root, in both worlds.

use std::io;

/// The names along `path`. Empty components and `.` are skipped, so `""` is the root; `InvalidInput` if the path
/// is absolute or holds `..`.
pub(super) fn components(path: &str) -> io::Result<Vec<&str>> {
    let is_inside = !path.starts_with('/') && path.split('/').all(|name| name != "..");
    if !is_inside {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("path '{path}' leaves the disk's root")));
    }
    Ok(path.split('/').filter(|name| !name.is_empty() && *name != ".").collect())
}

/// The directory along `path` and its last name. `InvalidInput` if there is none.
pub(super) fn split_last(path: &str) -> io::Result<(Vec<&str>, &str)> {
    let mut names = components(path)?;
    match names.pop() {
        Some(last) => Ok((names, last)),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names the disk's root")),
    }
}

#[cfg(test)]
mod tests {
    use super::{components, split_last};

    #[test]
    fn paths_stay_inside_the_root() {
        assert_eq!(components("orders-0//./a.log").unwrap(), ["orders-0", "a.log"]);
        assert!(components("").unwrap().is_empty());
        assert!(components("/etc").is_err());
        assert!(components("a/../../b").is_err());
        assert!(split_last("./").is_err());
    }
}
