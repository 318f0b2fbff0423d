//! Paths as hosts have them. In them C is a container's id, D another one's, U a pod's uid, `U_` the same as
//! systemd's driver writes it, and S the hash of a static pod.

use proptest::prelude::*;

use super::*;
use crate::escape_path;

const C: &str = "8d7c5b0a5a7c4a1c9c6b0e6f2b1d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d";
const D: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
const U: &str = "74c13223-5a00-11e9-b385-42010a80018d";
const S: &str = "5a1b6cd0f5ea9e8d54b3b0a1d9a2c7e4";

/// A path; then pod uid, container id, runtime, systemd unit and slice, `-` for none.
type Row = (&'static str, [&'static str; 5]);

const KUBERNETES: &[Row] = &[
    // kubelet with cgroupfs; containerd and dockershim name containers alike.
    ("/kubepods", ["-", "-", "-", "-", "-"]),
    ("/kubepods/besteffort", ["-", "-", "-", "-", "-"]),
    ("/kubepods/besteffort/podU", ["U", "-", "-", "-", "-"]),
    ("/kubepods/besteffort/podU/C", ["U", "C", "-", "-", "-"]),
    ("/kubepods/burstable/podU/C", ["U", "C", "-", "-", "-"]),
    ("/kubepods/podU/C", ["U", "C", "-", "-", "-"]),
    ("/kubepods/burstable/podS/C", ["S", "C", "-", "-", "-"]),
    ("/kubepods/podU/C/init.scope", ["U", "C", "-", "init.scope", "-"]),
    ("/kubepods/burstable/podU/crio-C", ["U", "C", "crio", "-", "-"]),
    ("/kubepods/burstable/podU/crio-conmon-C", ["U", "-", "-", "-", "-"]),
    // kubelet with systemd.
    ("/kubepods.slice/kubepods-burstable.slice", ["-", "-", "-", "-", "kubepods-burstable.slice"]),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_.slice",
        ["U", "-", "-", "-", "kubepods-burstable-podU_.slice"],
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_.slice/cri-containerd-C.scope",
        ["U", "C", "containerd", "cri-containerd-C.scope", "kubepods-burstable-podU_.slice"],
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_.slice/crio-C.scope",
        ["U", "C", "crio", "crio-C.scope", "kubepods-besteffort-podU_.slice"],
    ),
    // CRI-O with crun.
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_.slice/crio-C.scope/container",
        ["U", "C", "crio", "crio-C.scope", "kubepods-besteffort-podU_.slice"],
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_.slice/crio-conmon-C.scope",
        ["U", "-", "-", "crio-conmon-C.scope", "kubepods-besteffort-podU_.slice"],
    ),
    (
        "/kubepods.slice/kubepods-podU_.slice/docker-C.scope",
        ["U", "C", "docker", "docker-C.scope", "kubepods-podU_.slice"],
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podS.slice/cri-containerd-C.scope",
        ["S", "C", "containerd", "cri-containerd-C.scope", "kubepods-burstable-podS.slice"],
    ),
    ("/kubepods.slice/kubepods-podU_.slice/C", ["U", "C", "-", "-", "kubepods-podU_.slice"]),
    // containerd without SystemdCgroup below a kubelet with systemd.
    (
        "/system.slice/containerd.service/kubepods-burstable-podU_.slice:cri-containerd:C",
        ["U", "C", "containerd", "containerd.service", "system.slice"],
    ),
    // A kubelet with a cgroup root of its own.
    ("/kubelet/kubepods/burstable/podU/C", ["U", "C", "-", "-", "-"]),
    // kind, inside the node and from its host.
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
         kubelet-kubepods-burstable-podU_.slice/cri-containerd-C.scope",
        ["U", "C", "containerd", "cri-containerd-C.scope", "kubelet-kubepods-burstable-podU_.slice"],
    ),
    ("/docker/D/kubelet/kubepods/besteffort/podU/C", ["U", "C", "-", "-", "-"]),
    ("/docker/D/kubelet/kubepods/besteffort/podU", ["U", "-", "-", "-", "-"]),
    ("/docker/D/kubelet", ["-", "D", "docker", "-", "-"]),
    (
        "/system.slice/docker-D.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_.slice/\
         cri-containerd-C.scope",
        ["U", "C", "containerd", "cri-containerd-C.scope", "kubelet-kubepods-podU_.slice"],
    ),
    // k3s without root, and docker in a pod.
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/k3s-rootless.service/kubepods/burstable/podU/C",
        ["U", "C", "-", "k3s-rootless.service", "app.slice"],
    ),
    ("/kubepods/burstable/podU/D/docker/C", ["U", "C", "docker", "-", "-"]),
    ("/system.slice/k3s.service", ["-", "-", "-", "k3s.service", "system.slice"]),
    ("/system.slice/kubelet.service", ["-", "-", "-", "kubelet.service", "system.slice"]),
    // What is almost a pod's.
    ("/kubepods/burstable/pod", ["-", "-", "-", "-", "-"]),
    ("/kubepods/burstable/podman", ["-", "-", "-", "-", "-"]),
    ("/burstable/podU", ["-", "-", "-", "-", "-"]),
    ("/kubepods/podU/other/C", ["U", "-", "-", "-", "-"]),
    ("/notkubepods-podU_.slice", ["-", "-", "-", "-", "notkubepods-podU_.slice"]),
];

const CONTAINERS: &[Row] = &[
    ("/docker/C", ["-", "C", "docker", "-", "-"]),
    ("/docker/C/init.scope", ["-", "C", "docker", "init.scope", "-"]),
    ("/docker/C/system.slice/ssh.service", ["-", "C", "docker", "ssh.service", "system.slice"]),
    ("/docker/D/docker/C", ["-", "C", "docker", "-", "-"]),
    ("/docker", ["-", "-", "-", "-", "-"]),
    ("/docker/buildkit", ["-", "-", "-", "-", "-"]),
    ("/system.slice/docker-C.scope", ["-", "C", "docker", "docker-C.scope", "system.slice"]),
    ("/system.slice/docker.service", ["-", "-", "-", "docker.service", "system.slice"]),
    ("/system.slice/docker.socket", ["-", "-", "-", "docker.socket", "system.slice"]),
    ("/system.slice/docker.service/docker/C", ["-", "C", "docker", "docker.service", "system.slice"]),
    (
        "/ecstasks.slice/ecstasks-4d35e.slice/docker-C.scope",
        ["-", "C", "docker", "docker-C.scope", "ecstasks-4d35e.slice"],
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-C.scope",
        ["-", "C", "docker", "docker-C.scope", "user.slice"],
    ),
    // containerd: crictl, nerdctl with systemd; with cgroupfs anybody may have made such a directory.
    ("/k8s.io/C", ["-", "C", "containerd", "-", "-"]),
    ("/system.slice/nerdctl-C.scope", ["-", "C", "containerd", "nerdctl-C.scope", "system.slice"]),
    ("/default/C", ["-", "-", "-", "-", "-"]),
    ("/C", ["-", "-", "-", "-", "-"]),
    ("/ecs/5f0d/C", ["-", "-", "-", "-", "-"]),
    ("/system.slice/crio-C.scope", ["-", "C", "crio", "crio-C.scope", "system.slice"]),
    // podman of root and of a user, with systemd and cgroupfs.
    ("/machine.slice/libpod-C.scope", ["-", "C", "podman", "libpod-C.scope", "machine.slice"]),
    ("/machine.slice/libpod-C.scope/container", ["-", "C", "podman", "libpod-C.scope", "machine.slice"]),
    ("/machine.slice/libpod-conmon-C.scope", ["-", "-", "-", "libpod-conmon-C.scope", "machine.slice"]),
    (
        "/machine.slice/machine-libpod_pod_D.slice/libpod-C.scope/container",
        ["-", "C", "podman", "libpod-C.scope", "machine-libpod_pod_D.slice"],
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-C.scope/container",
        ["-", "C", "podman", "libpod-C.scope", "user.slice"],
    ),
    ("/libpod_parent/libpod-C", ["-", "C", "podman", "-", "-"]),
    ("/libpod_parent/libpod-C/ctr", ["-", "C", "podman", "-", "-"]),
    ("/libpod_parent/conmon", ["-", "-", "-", "-", "-"]),
    ("/system.slice/web.service/libpod-payload-C", ["-", "C", "podman", "web.service", "system.slice"]),
    ("/system.slice/web.service/runtime", ["-", "-", "-", "web.service", "system.slice"]),
];

const SYSTEMD: &[Row] = &[
    ("/", ["-", "-", "-", "-", "-"]),
    ("/..", ["-", "-", "-", "-", "-"]),
    ("/init.scope", ["-", "-", "-", "init.scope", "-"]),
    ("/system.slice", ["-", "-", "-", "-", "system.slice"]),
    ("/system.slice/ssh.service", ["-", "-", "-", "ssh.service", "system.slice"]),
    (
        "/system.slice/system-getty.slice/getty@tty1.service",
        ["-", "-", "-", "getty@tty1.service", "system-getty.slice"],
    ),
    (r"/system.slice/system-systemd\x5cx2dfsck.slice", ["-", "-", "-", "-", r"system-systemd\x2dfsck.slice"]),
    (
        r"/system.slice/system-serial\x5cx2dgetty.slice/serial-getty@ttyS0.service",
        ["-", "-", "-", "serial-getty@ttyS0.service", r"system-serial\x2dgetty.slice"],
    ),
    ("/system.slice/dev-hugepages.mount", ["-", "-", "-", "dev-hugepages.mount", "system.slice"]),
    ("/system.slice/-.mount", ["-", "-", "-", "-.mount", "system.slice"]),
    ("/system.slice/_cpu.service", ["-", "-", "-", "cpu.service", "system.slice"]),
    ("/system.slice/systemd-udevd.service/udev", ["-", "-", "-", "systemd-udevd.service", "system.slice"]),
    ("/user.slice/user-1000.slice/session-2.scope", ["-", "-", "-", "session-2.scope", "user-1000.slice"]),
    (
        "/user.slice/user-1000.slice/user@1000.service/init.scope",
        ["-", "-", "-", "init.scope", "user-1000.slice"],
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice",
        ["-", "-", "-", "user@1000.service", "app.slice"],
    ),
    (
        r"/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-org.gnome.Terminal\x5cx2dA.scope",
        ["-", "-", "-", r"app-gnome-org.gnome.Terminal\x2dA.scope", "app.slice"],
    ),
    // nspawn, libvirt, LXC.
    (
        "/machine.slice/systemd-nspawn@deb.service/payload/system.slice/cron.service",
        ["-", "-", "-", "cron.service", "system.slice"],
    ),
    (
        r"/machine.slice/machine-qemu\x5cx2d1\x5cx2dvm.scope/libvirt/vcpu0",
        ["-", "-", "-", r"machine-qemu\x2d1\x2dvm.scope", "machine.slice"],
    ),
    ("/lxc/101/ns/system.slice/ssh.service", ["-", "-", "-", "ssh.service", "system.slice"]),
    ("/lxc.payload.c1", ["-", "-", "-", "-", "-"]),
    // What is no unit's name.
    ("/system.slice/a b.service", ["-", "-", "-", "-", "system.slice"]),
    (r"/system.slice/\xff.service", ["-", "-", "-", "-", "system.slice"]),
    ("/.slice", ["-", "-", "-", "-", "-"]),
    ("/a.service.d", ["-", "-", "-", "-", "-"]),
];

/// The letters are never part of a word in the rows.
fn written_out(text: &str) -> String {
    let mut written = String::new();
    let bytes = text.as_bytes();
    for (at, char) in text.char_indices() {
        let is_word = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphabetic);
        let is_alone = !is_word(at + 1) && (at == 0 || !is_word(at - 1) || text[..at].ends_with("pod"));
        match char {
            'C' if is_alone => written.push_str(C),
            'D' if is_alone => written.push_str(D),
            'S' if is_alone => written.push_str(S),
            'U' if text[at + 1..].starts_with('_') => written.push_str(&U.replace('-', "_")),
            'U' if is_alone => written.push_str(U),
            '_' if text[..at].ends_with('U') => {}
            char => written.push(char),
        }
    }
    written
}

#[test]
fn paths_say_what_runs_in_them() {
    for (path, expect) in [KUBERNETES, CONTAINERS, SYSTEMD].concat() {
        let path = written_out(path);
        let workload = Workload::of_path(&path);
        let found = [
            workload.pod_uid.as_deref(),
            workload.container_id.as_deref(),
            workload.runtime.map(Runtime::name),
            workload.systemd_unit(),
            workload.systemd_slice(),
        ];
        let expect = expect.map(|text| if text == "-" { String::new() } else { written_out(text) });
        assert_eq!(found.map(Option::unwrap_or_default), expect.each_ref().map(String::as_str), "{path}");
        assert_eq!(workload.is_empty(), expect.iter().all(String::is_empty), "{path}");
        let of_path = (&workload.pod_namespace, &workload.pod_name, &workload.container_name);
        assert_eq!(of_path, (&None, &None, &None), "no path says these");
    }
}

#[test]
fn units_are_all_that_are_around() {
    let workload = Workload::of_path("/user.slice/user-1.slice/user@1.service/app.slice/a.service/b");
    let expect = ["user.slice", "user-1.slice", "user@1.service", "app.slice", "a.service"];
    assert_eq!(workload.units, expect);
}

#[test]
fn a_uid_is_in_lower_case() {
    let uid = "74C13223-5A00-11E9-B385-42010A80018D";
    assert_eq!(Workload::of_path(&format!("/kubepods/pod{uid}")).pod_uid.as_deref(), Some(U));
    let id = C.to_uppercase();
    assert!(Workload::of_path(&format!("/docker/{id}")).is_empty(), "no runtime writes ids in capitals");
}

proptest! {
    #[test]
    fn any_path_is_read(bytes: Vec<u8>) {
        let _ = Workload::of_path(&escape_path(&bytes));
    }

    #[test]
    fn any_text_is_read(text in "[/_:@.a-f0-9\\\\]{0,80}(pod|docker|kubepods|é|libpod-|\\.scope|\\.slice){0,4}") {
        let _ = Workload::of_path(&text);
    }

    /// Reading on from the path above is reading the whole path.
    #[test]
    fn a_name_says_below_its_path_what_it_says_in_it(
        names in prop::collection::vec(
            prop::sample::select(vec![
                "kubepods", "burstable", "podU", "docker", "k8s.io", "C", "D", "kubepods-podU_.slice",
                "cri-containerd-C.scope", "a.service", "b.slice", "x", "libpod-D.scope",
            ]),
            1..7,
        ),
    ) {
        let names: Vec<String> = names.into_iter().map(written_out).collect();
        let (name, above) = names.split_last().unwrap();
        let above = WorkloadPath::of(&above.join("/"));
        let below = above.below(name).unwrap_or_else(|| above.workload().clone());
        prop_assert_eq!(below, Workload::of_path(&names.join("/")));
    }
}
