//! Hiding passwords in whatever is printed. A key is secret by its name, because TOML has no type for it:
//! `…password` as a whole, and the password inside of `…_url`.

use toml::Value;

/// What stands for a password.
pub(crate) const HIDDEN: &str = "***";

/// The value with its password hidden; `None` when there is none to hide.
pub(crate) fn redact(key: &str, value: &Value) -> Option<Value> {
    let is_url = key.ends_with("_url");
    if !is_url && !key.ends_with("password") {
        return None;
    }
    // A value of the wrong type is shown in an error only, and may hold the password anywhere.
    let Some(url) = value.as_str().filter(|_| is_url) else {
        return Some(Value::String(HIDDEN.to_owned()));
    };
    let hidden = redact_parameter(&redact_userinfo(url));
    (hidden != url).then_some(Value::String(hidden))
}

/// `scheme://user:password@host`. The last `@` ends it, so that a password with an unescaped `/` or `@`, for which a
/// URL parser would give up, is hidden too.
fn redact_userinfo(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + "://".len());
    let Some(at) = url[start..].rfind('@') else { return url.to_owned() };
    let Some(colon) = url[start..start + at].find(':') else { return url.to_owned() };
    format!("{}:{HIDDEN}{}", &url[..start + colon], &url[start + at..])
}

/// `?password=…`, which libpq and sqlx accept as well.
fn redact_parameter(url: &str) -> String {
    const NAME: &str = "password=";
    let Some(at) = url.find(NAME) else { return url.to_owned() };
    let start = at + NAME.len();
    let end = url[start..].find('&').map_or(url.len(), |length| start + length);
    format!("{}{HIDDEN}{}", &url[..start], &url[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hidden_and_the_rest_stays_readable() {
        let cases = [
            ("database_url", "postgres://u:pw@db:5432/cgfleet", "postgres://u:***@db:5432/cgfleet"),
            ("database_url", "postgres://u:p/w@x@db/cgfleet", "postgres://u:***@db/cgfleet"),
            (
                "database_url",
                "postgres://db/x?user=u&password=pw&a=b",
                "postgres://db/x?user=u&password=***&a=b",
            ),
            ("database_url", "u:pw@db/cgfleet", "u:***@db/cgfleet"),
            ("database_url", "postgres://u@db:5432/cgfleet", "postgres://u@db:5432/cgfleet"),
            ("database_url", "postgres:///cgfleet?host=/run/pg", "postgres:///cgfleet?host=/run/pg"),
            ("password", "pw", "***"),
            ("admin_password", "pw", "***"),
            ("listen_address", "u:pw@db", "u:pw@db"),
        ];
        for (key, given, expect) in cases {
            let given = Value::String(given.to_owned());
            let shown = redact(key, &given).unwrap_or(given);
            assert_eq!(shown.as_str(), Some(expect));
        }
    }
}
