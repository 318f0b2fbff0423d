//! One name of a path: what systemd, the kubelet and container runtimes call cgroups.

use std::borrow::Cow;

use super::Runtime;
use crate::unescape_path;

/// The kinds of systemd units that have cgroups (systemd.unit(5), systemd.resource-control(5)).
const UNIT_KINDS: [&str; 6] = [".slice", ".scope", ".service", ".socket", ".mount", ".swap"];
/// The longest unit name (systemd, src/basic/unit-name.h).
const UNIT_NAME_MAX: usize = 255;
/// Digits of a container's id: every runtime that is known here takes 256 random bits.
pub(super) const ID_DIGITS: usize = 64;

/// A systemd unit's name in systemd's own spelling; `None` if it is none. In a path its `\x2d` is `\x5cx2d`, and
/// what the kernel might take for a file of its own has an underscore before it (systemd, src/basic/cgroup-util.c,
/// `cg_escape`).
pub(super) fn unit_of(name: &str) -> Option<Cow<'_, str>> {
    if !UNIT_KINDS.iter().any(|kind| name.ends_with(kind)) {
        return None;
    }
    let name = name.strip_prefix('_').unwrap_or(name);
    let name = if name.contains('\\') {
        Cow::Owned(String::from_utf8(unescape_path(name).ok()?).ok()?)
    } else {
        Cow::Borrowed(name)
    };
    unit_name(&name).is_some().then_some(name)
}

/// The text, if it may be the name of a systemd unit that has a cgroup (`ssh.service`).
pub(super) fn unit_name(text: &str) -> Option<&str> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let has_kind = UNIT_KINDS.iter().any(|kind| text.strip_suffix(kind).is_some_and(|stem| !stem.is_empty()));
    (has_kind && text.len() <= UNIT_NAME_MAX && text.bytes().all(is_valid)).then_some(text)
}

pub(super) fn is_slice(unit: &str) -> bool {
    unit.strip_suffix(".slice").is_some()
}

/// The pod's uid in the name of its slice: `kubepods-burstable-pod<uid>.slice`, behind `kubelet-` or whatever
/// the kubelet's cgroup root is. The kubelet writes the uid's hyphens as underscores (pkg/kubelet/cm,
/// `escapeSystemdCgroupName`).
pub(super) fn pod_of_slice(slice: &str) -> Option<String> {
    let (above, uid) = slice.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let above =
        above.strip_suffix("-burstable").or_else(|| above.strip_suffix("-besteffort")).unwrap_or(above);
    let is_kubelets = above.rsplit('-').next() == Some("kubepods");
    is_kubelets.then(|| pod_uid(&uid.replace('_', "-"))).flatten()
}

/// A pod's uid in lower case; `None` if it is none. It is a uuid, or of a static pod 32 digits of a hash
/// (Kubernetes, pkg/kubelet/config/common.go, `applyDefaults`).
pub(super) fn pod_uid(text: &str) -> Option<String> {
    let is_uuid = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let is_hash = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_uuid || is_hash).then(|| text.to_ascii_lowercase())
}

/// Whether this is a whole container id.
pub(super) fn is_container_id(text: &str) -> bool {
    text.len() == ID_DIGITS && is_hex(text)
}

/// Whether there are digits of a container id only.
pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A container whose name says its runtime: `docker-<id>.scope`, `libpod-<id>`, or, where a runtime took the
/// name that was meant for systemd as a path, `kubepods-pod<uid>.slice:cri-containerd:<id>`.
pub(super) fn container_of(name: &str) -> Option<(Runtime, &str)> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    let at = stem.len().checked_sub(ID_DIGITS).filter(|at| stem.is_char_boundary(*at))?;
    let (prefix, id) = stem.split_at(at);
    let prefix = prefix.strip_suffix(['-', ':'])?;
    let prefix = prefix.rsplit(':').next().unwrap_or(prefix);
    let runtime = match prefix {
        "cri-containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::Crio,
        "docker" => Runtime::Docker,
        // The latter in the cgroup of a unit that podman was started in (podman-run(1), --cgroups=split).
        "libpod" | "libpod-payload" => Runtime::Podman,
        // conmon and others have names with ids too, and are not the container.
        _ => return None,
    };
    is_container_id(id).then_some((runtime, id))
}
