//! `cargo xtask soak`: chaos for longer than a test may take.

use anyhow::{Context as _, Result, bail};
use integration_tests::chaos;

const USAGE: &str = "soak [--rounds N] [--agents N] [--seed N]";

#[tokio::main]
async fn main() -> Result<()> {
    let (mut rounds, mut agents, mut seed) = (30, 4, fastrand::u64(..));
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut number = || -> Result<u64> {
            let text = arguments.next().with_context(|| format!("{flag} has no number; {USAGE}"))?;
            text.parse().with_context(|| format!("{flag} {text}: not a number; {USAGE}"))
        };
        match flag.as_str() {
            "--rounds" => rounds = usize::try_from(number()?)?,
            "--agents" => agents = usize::try_from(number()?)?,
            "--seed" => seed = number()?,
            _ => bail!("{flag}: {USAGE}"),
        }
    }
    chaos::run(rounds, agents, seed).await
}
