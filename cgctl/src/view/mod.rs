//! `cgctl view`: makes, lists and removes text views on one host, many or all.

mod report;

use cgfleet_proto::v1::{
    AgentServiceCreateViewRequest, AgentServiceDeleteViewRequest, FleetServiceCreateViewRequest,
    FleetServiceCreateViewResponse, FleetServiceDeleteViewRequest, FleetServiceDeleteViewResponse,
    FleetServiceListViewsRequest, FleetServiceListViewsResponse, GetCapabilitiesRequest, HostError,
    ListViewsRequest, fleet_service_create_view_response as created,
    fleet_service_delete_view_response as deleted, fleet_service_list_views_response as listed,
};

use tonic::Streaming;

use self::report::{Answer, Report};
use crate::{
    Calls,
    args::{Answerer, CreateViewArgs, DeleteViewArgs, ListViewsArgs, ViewArgs, ViewCommand},
    error::Error,
    exit::Exit,
    output::stdout,
    remote::{Agent, Server},
};

pub(crate) async fn run(args: ViewArgs, calls: &Calls) -> Result<Exit, Error> {
    match args.command {
        ViewCommand::Create(args) => create(args, calls).await,
        ViewCommand::List(args) => list(args, calls).await,
        ViewCommand::Delete(args) => delete(args, calls).await,
    }
}

async fn create(args: CreateViewArgs, calls: &Calls) -> Result<Exit, Error> {
    let mut report = Report::new(stdout(args.output.format), args.output.format);
    let view = Some(args.to_spec());
    let ended = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => {
            let agent = calls.agent(&address)?;
            let (host_id, hostname) = host(&agent).await?;
            let request = AgentServiceCreateViewRequest { view };
            let made =
                agent.call(request, async |mut agent, request| agent.create_view(request).await).await?;
            report.add(Answer { host_id, hostname, outcome: Ok(made.view.into_iter().collect()) })?;
            Ok(())
        }
        Answerer::Server(hosts) => {
            let host_timeout = args.host_timeout.to_proto();
            let request = FleetServiceCreateViewRequest { hosts: Some(hosts), host_timeout, view };
            let server = calls.server()?;
            let answers = server.call(request, async |mut client, request| client.create_view(request).await);
            let to_answer = |host: FleetServiceCreateViewResponse| {
                let outcome = match host.outcome {
                    Some(created::Outcome::View(view)) => Ok(vec![view]),
                    Some(created::Outcome::Error(error)) => Err(error),
                    None => Err(HostError::default()),
                };
                Answer { host_id: host.host_id, hostname: host.hostname, outcome }
            };
            gather(&server, answers.await?, &mut report, to_answer).await
        }
    };
    report.finish(ended)
}

async fn list(args: ListViewsArgs, calls: &Calls) -> Result<Exit, Error> {
    let mut report = Report::new(stdout(args.output.format), args.output.format);
    let ended = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => {
            let agent = calls.agent(&address)?;
            let (host_id, hostname) = host(&agent).await?;
            let listed = agent
                .call(ListViewsRequest {}, async |mut agent, request| agent.list_views(request).await)
                .await?;
            report.add(Answer { host_id, hostname, outcome: Ok(listed.views) })?;
            Ok(())
        }
        Answerer::Server(hosts) => {
            let host_timeout = args.host_timeout.to_proto();
            let request = FleetServiceListViewsRequest { hosts: Some(hosts), host_timeout };
            let server = calls.server()?;
            let answers = server.call(request, async |mut client, request| client.list_views(request).await);
            let to_answer = |host: FleetServiceListViewsResponse| {
                let outcome = match host.outcome {
                    Some(listed::Outcome::Views(listed)) => Ok(listed.views),
                    Some(listed::Outcome::Error(error)) => Err(error),
                    None => Err(HostError::default()),
                };
                Answer { host_id: host.host_id, hostname: host.hostname, outcome }
            };
            gather(&server, answers.await?, &mut report, to_answer).await
        }
    };
    report.finish(ended)
}

async fn delete(args: DeleteViewArgs, calls: &Calls) -> Result<Exit, Error> {
    let mut report = Report::new(stdout(args.output.format), args.output.format);
    let ended = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => {
            let agent = calls.agent(&address)?;
            let (host_id, hostname) = host(&agent).await?;
            let request = AgentServiceDeleteViewRequest { name: args.name };
            agent.call(request, async |mut agent, request| agent.delete_view(request).await).await?;
            report.add(Answer { host_id, hostname, outcome: Ok(Vec::new()) })?;
            Ok(())
        }
        Answerer::Server(hosts) => {
            let host_timeout = args.host_timeout.to_proto();
            let request = FleetServiceDeleteViewRequest { hosts: Some(hosts), host_timeout, name: args.name };
            let server = calls.server()?;
            let answers = server.call(request, async |mut client, request| client.delete_view(request).await);
            let to_answer = |host: FleetServiceDeleteViewResponse| {
                let outcome = match host.outcome {
                    Some(deleted::Outcome::Deleted(_)) => Ok(Vec::new()),
                    Some(deleted::Outcome::Error(error)) => Err(error),
                    None => Err(HostError::default()),
                };
                Answer { host_id: host.host_id, hostname: host.hostname, outcome }
            };
            gather(&server, answers.await?, &mut report, to_answer).await
        }
    };
    report.finish(ended)
}

/// Adds what the hosts answer, as they do.
async fn gather<T>(
    server: &Server,
    mut answers: Streaming<T>,
    report: &mut Report,
    to_answer: impl Fn(T) -> Answer,
) -> Result<(), Error> {
    while let Some(host) = server.link.next(&mut answers).await? {
        report.add(to_answer(host))?;
    }
    Ok(())
}

/// Which host an agent is of. The other answers do not name it, and what was done should not fail for that.
async fn host(agent: &Agent) -> Result<(String, String), Error> {
    let host = agent
        .call(GetCapabilitiesRequest {}, async |mut client, request| client.get_capabilities(request).await)
        .await?;
    Ok((host.host_id, host.hostname))
}
