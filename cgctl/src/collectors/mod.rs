//! `cgctl collectors`: lists the collectors of one host, many or all, and switches them before.

mod report;
mod shown;

use cgfleet_proto::v1::{
    AgentServiceSetCollectorRequest, FleetServiceListCollectorsRequest, FleetServiceListCollectorsResponse,
    FleetServiceSetCollectorRequest, GetCapabilitiesRequest, HostCollectors, HostError, HostSelector,
    ListCollectorsRequest, fleet_service_list_collectors_response::Outcome,
    fleet_service_set_collector_response as switched,
};

use self::report::{Failed, Report};
pub(crate) use self::shown::{Shown, columns};
use crate::{
    Calls,
    args::{Answerer, CollectorsArgs, Switch},
    error::Error,
    exit::Exit,
    output::stdout,
    remote::{Agent, Server},
};

pub(crate) async fn run(args: CollectorsArgs, calls: &Calls) -> Result<Exit, Error> {
    let switches = args.switches.to_switches()?;
    let mut report = Report::new(stdout(args.output.format), args.output.format);
    let ended = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => {
            report.add(of_agent(&calls.agent(&address)?, &switches).await?)?;
            Ok(())
        }
        Answerer::Server(hosts) => {
            let server = calls.server()?;
            let host_timeout = args.host_timeout.to_proto();
            for switch in switches {
                switch_all(&server, &hosts, host_timeout, switch, &mut report).await?;
            }
            list_all(&server, hosts, host_timeout, &mut report).await
        }
    };
    report.finish(ended)
}

/// One agent's collectors as the server would tell them. What it refuses to switch ends the command.
async fn of_agent(agent: &Agent, switches: &[Switch]) -> Result<FleetServiceListCollectorsResponse, Error> {
    // The other answers do not name the host, and what was switched should not fail for that.
    let host = agent
        .call(GetCapabilitiesRequest {}, async |mut client, request| client.get_capabilities(request).await)
        .await?;
    for switch in switches {
        let request = AgentServiceSetCollectorRequest {
            name: switch.collector.name().to_owned(),
            state: switch.state.into(),
        };
        agent.call(request, async |mut client, request| client.set_collector(request).await).await?;
    }
    let listed = agent
        .call(ListCollectorsRequest {}, async |mut client, request| client.list_collectors(request).await)
        .await?;
    Ok(FleetServiceListCollectorsResponse {
        host_id: host.host_id,
        hostname: host.hostname,
        outcome: Some(Outcome::Collectors(HostCollectors { collectors: listed.collectors })),
    })
}

/// Switches one collector on all hosts. Where it cannot be, the report says so beside the host's collectors.
async fn switch_all(
    server: &Server,
    hosts: &HostSelector,
    host_timeout: Option<prost_types::Duration>,
    switch: Switch,
    report: &mut Report,
) -> Result<(), Error> {
    let request = FleetServiceSetCollectorRequest {
        hosts: Some(hosts.clone()),
        host_timeout,
        name: switch.collector.name().to_owned(),
        state: switch.state.into(),
    };
    let mut answers =
        server.call(request, async |mut client, request| client.set_collector(request).await).await?;
    while let Some(host) = server.link.next(&mut answers).await? {
        let error = match host.outcome {
            Some(switched::Outcome::Collector(_)) => continue,
            Some(switched::Outcome::Error(error)) => error,
            None => HostError::default(),
        };
        report.switch_failed(host.host_id, Failed { switch, error });
    }
    Ok(())
}

async fn list_all(
    server: &Server,
    hosts: HostSelector,
    host_timeout: Option<prost_types::Duration>,
    report: &mut Report,
) -> Result<(), Error> {
    let request = FleetServiceListCollectorsRequest { hosts: Some(hosts), host_timeout };
    let mut answers =
        server.call(request, async |mut client, request| client.list_collectors(request).await).await?;
    while let Some(host) = server.link.next(&mut answers).await? {
        report.add(host)?;
    }
    Ok(())
}
