//! Filters on workloads: whatever people call a pod, a container or a unit by.

use super::{
    Workload,
    name::{ID_DIGITS, is_hex, pod_uid, unit_name},
};

/// The fewest digits that stand for a container's id, as container tools print it.
const ID_DIGITS_MIN: usize = 12;
/// From here on, hexadecimal digits are more likely an id that was cut too short than a name.
const SHORT_ID_DIGITS_MIN: usize = 4;
/// The longest names in Kubernetes: a DNS label, a DNS subdomain (RFC 1123).
const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const POD_ALLOWED: &str = "a pod's name (web-0), namespace/name (default/web-0), or a pod's uid";
const CONTAINER_ALLOWED: &str = "a container's name (nginx), its id, or the first 12 or more digits of that";
const UNIT_ALLOWED: &str =
    "a systemd unit with its suffix (ssh.service): .service, .scope, .slice, .socket, .mount or .swap";

/// Chooses cgroups by what runs in them: what is set has to be true, all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct WorkloadFilter {
    pod: Option<Pod>,
    container: Option<String>,
    unit: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pod {
    namespace: Option<String>,
    /// Or the uid, where no namespace is given.
    name: String,
}

impl WorkloadFilter {
    /// Reads a filter of which each part may be absent; `None` if all are.
    pub fn parse(
        pod: Option<&str>,
        container: Option<&str>,
        unit: Option<&str>,
    ) -> Result<Option<Self>, InvalidWorkloadFilter> {
        let filter = Self {
            pod: pod.map(Self::parse_pod).transpose()?,
            container: container.map(Self::parse_container).transpose()?,
            unit: unit.map(Self::parse_unit).transpose()?,
        };
        Ok((filter != Self::default()).then_some(filter))
    }

    fn parse_pod(text: &str) -> Result<Pod, InvalidWorkloadFilter> {
        let refused = || InvalidWorkloadFilter::new("pod", text, POD_ALLOWED);
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if !is_dns(name, true) || namespace.is_some_and(|namespace| !is_dns(namespace, false)) {
            // Uids are printed in capitals by some.
            let uid = pod_uid(text).ok_or_else(refused)?;
            return Ok(Pod { namespace: None, name: uid });
        }
        Ok(Pod { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }

    fn parse_container(text: &str) -> Result<String, InvalidWorkloadFilter> {
        let is_id = is_hex(text) && (ID_DIGITS_MIN..=ID_DIGITS).contains(&text.len());
        let is_short_id = is_hex(text)
            && (SHORT_ID_DIGITS_MIN..ID_DIGITS_MIN).contains(&text.len())
            && text.bytes().any(|byte| byte.is_ascii_digit());
        if is_id || is_dns(text, false) && !is_short_id {
            return Ok(text.to_owned());
        }
        Err(InvalidWorkloadFilter::new("container", text, CONTAINER_ALLOWED))
    }

    fn parse_unit(text: &str) -> Result<String, InvalidWorkloadFilter> {
        let unit = unit_name(text).ok_or_else(|| InvalidWorkloadFilter::new("unit", text, UNIT_ALLOWED))?;
        Ok(unit.to_owned())
    }

    /// Whether it chooses what this runs in.
    pub fn matches(&self, workload: &Workload) -> bool {
        self.pod.as_ref().is_none_or(|pod| pod.is_of(workload))
            && self.container.as_ref().is_none_or(|container| is_container(container, workload))
            && self.unit.as_ref().is_none_or(|unit| workload.units.contains(unit))
    }
}

impl Pod {
    fn is_of(&self, workload: &Workload) -> bool {
        let name = Some(self.name.as_str());
        match &self.namespace {
            None => workload.pod_name.as_deref() == name || workload.pod_uid.as_deref() == name,
            Some(_) => workload.pod_name.as_deref() == name && workload.pod_namespace == self.namespace,
        }
    }
}

/// Whether it is the container's name, or its id as far as that is given.
fn is_container(text: &str, workload: &Workload) -> bool {
    let is_id = text.len() >= ID_DIGITS_MIN
        && workload.container_id.as_ref().is_some_and(|container_id| container_id.starts_with(text));
    is_id || workload.container_name.as_deref() == Some(text)
}

/// Whether it may be a name in Kubernetes: a DNS label, or, with dots, a subdomain.
fn is_dns(text: &str, with_dots: bool) -> bool {
    let length_max = if with_dots { SUBDOMAIN_MAX } else { LABEL_MAX };
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_inner = |byte: &u8| is_alphanumeric(byte) || *byte == b'-' || with_dots && *byte == b'.';
    let bytes = text.as_bytes();
    bytes.len() <= length_max
        && bytes.iter().all(is_inner)
        && [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(is_alphanumeric))
}

/// A filter that chooses nothing by any name there is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{part} {value:?} is not allowed; allowed: {allowed}")]
pub struct InvalidWorkloadFilter {
    /// Which part: pod, container or unit.
    pub part: &'static str,
    /// As given.
    pub value: String,
    /// What is allowed instead.
    pub allowed: &'static str,
}

impl InvalidWorkloadFilter {
    fn new(part: &'static str, value: &str, allowed: &'static str) -> Self {
        Self { part, value: value.to_owned(), allowed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4a9b12cdef3f4a9b12cdef3f4a9b12cdef3f4a9b12cdef3f4a9b12cdef0123";
    const UID: &str = "0f1a4f66-3e0a-4f5a-9d59-6a7f35b3a9d1";

    fn workload() -> Workload {
        let units = ["kubepods.slice", "kubepods-pod1.slice", "cri-containerd-1.scope"];
        Workload {
            pod_namespace: Some("shop".into()),
            pod_name: Some("web-0".into()),
            pod_uid: Some(UID.into()),
            container_name: Some("nginx".into()),
            container_id: Some(ID.into()),
            units: units.map(str::to_owned).into(),
            ..Workload::default()
        }
    }

    fn given(text: &str) -> Option<&str> {
        Some(text).filter(|text| !text.is_empty())
    }

    #[test]
    fn what_is_set_has_to_be_true_all_of_it() {
        let check = |[pod, container, unit]: [&str; 3], expect| {
            let filter = WorkloadFilter::parse(given(pod), given(container), given(unit)).unwrap().unwrap();
            assert_eq!(filter.matches(&workload()), expect, "{filter:?}");
            assert!(!filter.matches(&Workload::default()), "{filter:?}");
        };
        check(["web-0", "", ""], true);
        check(["shop/web-0", "", ""], true);
        check([UID, "", ""], true);
        check(["0F1A4F66-3E0A-4F5A-9D59-6A7F35B3A9D1", "", ""], true);
        check(["web-1", "", ""], false);
        check(["default/web-0", "", ""], false);
        check(["shop/nginx", "", ""], false);
        check(["", "nginx", ""], true);
        check(["", ID, ""], true);
        check(["", "3f4a9b12cdef", ""], true);
        check(["", "3f4a9b12cdee", ""], false);
        check(["", "web-0", ""], false);
        check(["", "", "cri-containerd-1.scope"], true);
        check(["", "", "kubepods.slice"], true);
        check(["", "", "pods.slice"], false);
        check(["web-0", "nginx", "kubepods.slice"], true);
        check(["web-0", "nginx", "ssh.service"], false);
        check(["web-0", "sidecar", "kubepods.slice"], false);
    }

    #[test]
    fn without_an_id_only_the_name_is_compared() {
        let filter = WorkloadFilter::parse(None, Some("3f4a9b12cdef"), None).unwrap().unwrap();
        let named = |name: &str| Workload { container_name: Some(name.to_owned()), ..Workload::default() };
        assert!(filter.matches(&named("3f4a9b12cdef")));
        assert!(!filter.matches(&named("3f4a9b12cdef0")));
    }

    #[test]
    fn nothing_is_no_filter() {
        assert_eq!(WorkloadFilter::parse(None, None, None), Ok(None));
    }

    #[test]
    fn what_nothing_is_called_is_refused() {
        let check = |part: &str, value: &str| {
            let given = |name| Some(value).filter(|_| name == part);
            let refused = WorkloadFilter::parse(given("pod"), given("container"), given("unit")).unwrap_err();
            assert_eq!((refused.part, refused.value.as_str()), (part, value));
        };
        let long = "a".repeat(64);
        for pod in ["", "/", "a/", "/a", "a/b/c", "Web", "web_0", "web-", "größe", "a.b/c", &"a".repeat(254)]
        {
            check("pod", pod);
        }
        for container in ["", "3f4a9b", "3f4a9b12cde", "1234", "Nginx", "a/b", "a.b", &"g".repeat(64)] {
            check("container", container);
        }
        check("container", &format!("{long}a"));
        for unit in ["", "ssh", ".service", "ssh.timer", "a/b.service", "a b.service", "größe.slice"] {
            check("unit", unit);
        }
        check("unit", &format!("{}.service", "a".repeat(250)));
    }

    #[test]
    fn few_digits_may_be_a_name() {
        for name in ["db", "e2", "cafe", "deadbeef", "facade", "0"] {
            assert!(WorkloadFilter::parse(None, Some(name), None).is_ok(), "{name}");
        }
    }
}
