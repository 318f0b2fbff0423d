//! Collectors are switched while the agent runs.

use anyhow::{Context as _, Result};
use cgfleet_model::{Metric, MetricGroup};
use cgfleet_proto::v1::{CollectorState, ErrorReason, GetCapabilitiesRequest};
use cgfleet_rpc::wire_error;
use integration_tests::{
    cgroups::TestTree,
    daemon::{Daemon, Start},
    privileges::check_unprivileged,
};
use tonic::Code;

use crate::agent::{find, rows, set, start};

async fn count(agent: &Daemon, tree: &TestTree) -> Result<Option<u64>> {
    let rows = rows(agent, tree.path(""), MetricGroup::Attach).await?;
    Ok(rows.get(&tree.path("")).context("its row")?.metric(Metric::AttachCount))
}

async fn switch(agent: &Daemon, state: CollectorState) -> Result<()> {
    let switched = agent.agent()?.set_collector(set("attach", state)).await?.into_inner();
    assert_eq!(switched.collector.context("the collector")?.state(), state);
    assert_eq!(find(agent, "attach").await?.state(), state);
    Ok(())
}

pub(crate) async fn collectors_are_switched_without_privilege() -> Result<()> {
    let agent = start("reclaim").await?;
    check_unprivileged(agent.pid())?;
    let mut tree = TestTree::v2()?;
    assert_eq!(count(&agent, &tree).await?, None, "what is off has nothing to say");
    tree.rest_in("")?;
    switch(&agent, CollectorState::On).await?;
    assert_eq!(count(&agent, &tree).await?, Some(0), "and on, counts from then on");
    tree.rest_in("")?;
    assert_eq!(count(&agent, &tree).await?, Some(1));
    switch(&agent, CollectorState::Off).await?;
    tree.rest_in("")?;
    assert_eq!(count(&agent, &tree).await?, Some(1), "what was counted stays");
    switch(&agent, CollectorState::On).await?;
    tree.rest_in("")?;
    // Nobody reads it while it is on.
    switch(&agent, CollectorState::Off).await?;
    assert_eq!(count(&agent, &tree).await?, Some(2), "what was counted before it was switched off");
    switch(&agent, CollectorState::On).await?;
    let capabilities = agent.agent()?.get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
    let listed = capabilities.collectors.iter().find(|collector| collector.name == "attach");
    assert_eq!(listed.context("it is listed")?.state(), CollectorState::On);
    Ok(())
}

pub(crate) async fn what_cannot_be_switched_is_said() -> Result<()> {
    let agent = Start::agent()?.flag("--bpf", "off").start().await?;
    let check = async |name, state, code, says: &str| -> Result<()> {
        let refused = agent.agent()?.set_collector(set(name, state)).await;
        let refused = refused.err().context("it was refused")?;
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
        assert_ne!(wire_error::reason_of(&refused), ErrorReason::Unspecified, "for programs: {refused}");
        Ok(())
    };
    check("attach", CollectorState::On, Code::FailedPrecondition, "bpf = off").await?;
    check("swap", CollectorState::On, Code::InvalidArgument, "reclaim, attach, runqueue, block_io").await?;
    check("attach", CollectorState::Unspecified, Code::InvalidArgument, "state").await?;
    let listed = find(&agent, "attach").await?;
    assert_eq!(listed.state(), CollectorState::Unavailable);
    assert!(listed.reason.contains("bpf = off"), "{}", listed.reason);
    Ok(())
}
