//! The kernels that guests boot: Debian's cloud images, unpacked and kept below target/vm/kernels.
//!
//! Which package brings a kernel is asked of apt when the kernel is first wanted: exact versions
//! leave the archive with the next update.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::apt::Apt;

/// A line of kernels, of which the latest package is booted.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Series {
    /// The oldest that is supported.
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    #[value(name = "6.18")]
    V6_18,
    /// The latest that Debian builds for its stable release.
    #[value(name = "newest")]
    Newest,
}

/// The suite with kernels that are newer than this machine's release.
const BACKPORTS: &str = "trixie-backports";

impl Series {
    /// What `cargo xtask test` boots, and `cargo xtask vm` unless told otherwise.
    pub(super) const REQUIRED: [Self; 2] = [Self::V6_1, Self::V6_12];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_18 => "6.18",
            Self::Newest => "newest",
        }
    }

    fn holds(self, version: &str) -> bool {
        let below =
            |version: &str| version.strip_prefix(self.name()).is_some_and(|rest| rest.starts_with('.'));
        self == Self::Newest || below(version)
    }

    /// Where its packages come from, with lists of our own below this directory.
    fn packages(self, directory: &Path) -> Result<Apt> {
        match self {
            Self::V6_1 | Self::V6_12 => Apt::with_sources_of_machine(directory.join("machine")),
            Self::V6_18 | Self::Newest => Apt::with_suite(directory.join(BACKPORTS), BACKPORTS),
        }
    }
}

/// A kernel, unpacked.
pub(super) struct Kernel {
    pub(super) series: Series,
    /// What `uname -r` says in it.
    pub(super) release: String,
    /// The image that boots.
    pub(super) image: PathBuf,
    root: PathBuf,
}

impl Kernel {
    /// Unpacks the latest of a series, or takes the one that was unpacked before.
    pub(super) fn obtain(series: Series, directory: &Path) -> Result<Self> {
        let root = directory.join("kernels").join(series.name());
        if !root.exists() {
            download(series, directory, &root).with_context(|| format!("get Linux {}", series.name()))?;
        }
        let (release, image) = find_image(&root)?;
        Ok(Self { series, release, image, root })
    }

    /// The file of a module; `None` if it is part of the image or was not packaged.
    pub(super) fn module(&self, name: &str) -> Option<PathBuf> {
        let roots = ["lib/modules", "usr/lib/modules"].map(|below| self.root.join(below));
        let starts = format!("{name}.ko");
        let mut directories: Vec<_> = roots.into_iter().collect();
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                } else if entry.file_name().to_string_lossy().starts_with(&starts) {
                    return Some(entry.path());
                }
            }
        }
        None
    }
}

fn download(series: Series, directory: &Path, root: &Path) -> Result<()> {
    let apt = series.packages(&directory.join("apt"))?;
    apt.update()?;
    let names = apt.names("linux-image-")?;
    let package = latest_image(&names, series).context("apt knows no cloud image of it")?;
    println!("{}: {package}", series.name());
    let kernels = root.parent().context("a kernel is below kernels/")?;
    fs::create_dir_all(kernels).with_context(|| format!("make {}", kernels.display()))?;
    let unpacked = tempfile::tempdir_in(kernels).context("make a directory for a kernel")?;
    apt.unpack(package, unpacked.path())?;
    for part in parts(&apt.depends(package)?) {
        // Debian lists some modules packages that it does not publish; such a kernel boots without.
        if part.starts_with(MODULES) && !apt.knows(part) {
            println!("{}: {part} is not published: no modules", series.name());
            continue;
        }
        apt.unpack(part, unpacked.path())?;
    }
    find_image(unpacked.path())?;
    fs::rename(unpacked.keep(), root).with_context(|| format!("make {}", root.display()))
}

/// From 6.19 the image package is empty and depends on its parts.
const BINARY: &str = "linux-binary-";
const MODULES: &str = "linux-modules-";

/// The packages among these dependencies that bring the kernel itself.
fn parts(depends: &str) -> Vec<&str> {
    let names = depends.split(", ").filter_map(|dependency| dependency.split_whitespace().next());
    names.filter(|name| name.starts_with(BINARY) || name.starts_with(MODULES)).collect()
}

/// The package with the highest version of a series; of a signed and an unsigned one, the signed.
fn latest_image(names: &str, series: Series) -> Option<&str> {
    let version = |name: &str| -> Option<(Vec<u32>, bool)> {
        let rest = name.strip_prefix("linux-image-")?;
        let signed = !rest.ends_with("-unsigned");
        let version = rest.trim_end_matches("-unsigned").strip_suffix("-cloud-amd64")?;
        let numbers = numbers(version);
        // A metapackage has no third number: linux-image-6.12-cloud-amd64.
        (numbers.len() > 2 && series.holds(version)).then_some((numbers, signed))
    };
    let found = names.lines().filter_map(|name| Some((version(name)?, name)));
    found.max().map(|(_, name)| name)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The release and the image of an unpacked kernel.
fn find_image(root: &Path) -> Result<(String, PathBuf)> {
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let boot = root.join("boot");
    for name in names(&boot) {
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok((release.to_owned(), boot.join(&name)));
        }
    }
    let modules = root.join("usr/lib/modules");
    for release in names(&modules) {
        let image = modules.join(&release).join("vmlinuz");
        if image.exists() {
            return Ok((release, image));
        }
    }
    bail!("no vmlinuz below {}: remove that directory and run again", root.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_image_of_a_series_is_booted() {
        const NAMES: &str = "linux-image-cloud-amd64\n\
            linux-image-6.12-cloud-amd64\n\
            linux-image-6.1.0-9-cloud-amd64\n\
            linux-image-6.1.0-56-cloud-amd64\n\
            linux-image-6.1.0-56-cloud-amd64-dbg\n\
            linux-image-6.1.0-57-rt-amd64\n\
            linux-image-6.12.99+deb12-cloud-amd64\n\
            linux-image-6.12.117+deb12-cloud-amd64\n\
            linux-image-6.12.117+deb12-cloud-amd64-unsigned\n\
            linux-image-6.18.9+deb13-cloud-amd64\n\
            linux-image-6.18.15+deb13-cloud-amd64-unsigned\n\
            linux-image-7.3.4+deb13-cloud-amd64\n";
        let check = |series, expect| assert_eq!(latest_image(NAMES, series), Some(expect));
        check(Series::V6_1, "linux-image-6.1.0-56-cloud-amd64");
        check(Series::V6_12, "linux-image-6.12.117+deb12-cloud-amd64");
        check(Series::V6_18, "linux-image-6.18.15+deb13-cloud-amd64-unsigned");
        check(Series::Newest, "linux-image-7.3.4+deb13-cloud-amd64");
        assert_eq!(latest_image("linux-image-6.12-cloud-amd64", Series::V6_12), None);
        assert_eq!(latest_image("linux-image-6.12.1-cloud-amd64", Series::V6_1), None);
    }

    #[test]
    fn a_split_kernel_comes_with_its_parts() {
        let check = |depends: &str, expect: &[&str]| assert_eq!(parts(depends), expect, "{depends}");
        check("kmod, initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool", &[]);
        check(
            "dracut | initramfs-tools, linux-base-7.3.4 (= 7.3.4-1), linux-binary-7.3.4 (= 7.3.4-1), \
             linux-modules-7.3.4 (= 7.3.4-1)",
            &["linux-binary-7.3.4", "linux-modules-7.3.4"],
        );
    }
}
