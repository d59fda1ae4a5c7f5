//! Callers ask the relay which machines they may call, and which of these are there.

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::MachineStatus;
use betcode_schema_grpc::v1::machine_service_client::MachineServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::program::{Folder, Running, channel, daemon};

/// A call with a token; `machine` as some clients name it with every call.
fn with<T>(message: T, token: &str, machine: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    if let Some(machine) = machine {
        let machine = machine.parse().unwrap();
        request.metadata_mut().insert("x-machine-id", machine);
    }
    request
}

async fn listed(
    client: &mut MachineServiceClient<Channel>,
    request: Request<proto::ListMachinesRequest>,
) -> (Vec<(String, MachineStatus)>, u32) {
    let answer = client.list_machines(request).await.unwrap().into_inner();
    let machines = answer.machines.into_iter();
    let machines = machines.map(|machine| (machine.machine_id.clone(), machine.status()));
    (machines.collect(), answer.total)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lists_its_machines_and_says_which_are_there() {
    use MachineStatus::{Offline, Online, Unspecified};
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (tunnel, _) = daemon(options).await;
    let mut client = MachineServiceClient::new(channel(&relay, &folder.file("authority.pem")));
    let token = folder.token("ann", &["m-1", "away", "far"]);
    let list = |filter: MachineStatus, limit, offset| proto::ListMachinesRequest {
        status_filter: filter.into(),
        limit,
        offset,
    };
    let all = [("m-1", Online), ("away", Offline), ("far", Offline)];
    let named = |machines: &[(&str, MachineStatus)]| -> Vec<_> {
        let named = machines.iter();
        named
            .map(|(id, status)| ((*id).to_owned(), *status))
            .collect()
    };
    for (request, machines, total) in [
        (list(Unspecified, 0, 0), &all[..], 3),
        (list(Unspecified, 1, 1), &all[1..2], 3),
        (list(Unspecified, 5, 9), &[], 3),
        (list(Online, 0, 0), &all[..1], 1),
        (list(Offline, 0, 1), &all[2..], 2),
    ] {
        for machine in [None, Some("away"), Some("never heard of")] {
            let asked = with(request, &token, machine);
            assert_eq!(listed(&mut client, asked).await, (named(machines), total));
        }
    }
    let get = |id: &str| {
        let machine_id = id.to_owned();
        with(proto::GetMachineRequest { machine_id }, &token, None)
    };
    let found = client.get_machine(get("m-1")).await.unwrap().into_inner();
    let found = found.machine.unwrap();
    assert_eq!(found.owner_id, "ann");
    assert!(found.last_seen.is_some() && found.status() == Online);
    for (id, code) in [
        ("bobs", Code::PermissionDenied),
        ("no such id", Code::InvalidArgument),
    ] {
        let refused = client.get_machine(get(id)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{id}: {refused}");
    }
    drop(tunnel);
    let asked = || with(list(Online, 0, 0), &token, None);
    while listed(&mut client, asked()).await.1 > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_token_learns_nothing_and_who_has_one_changes_nothing() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let mut client = MachineServiceClient::new(channel(&relay, &folder.file("authority.pem")));
    let message = proto::ListMachinesRequest::default();
    let refused = client.list_machines(message).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let reason = refused.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "TOKEN_MISSING");
    let refused = client.list_machines(with(message, "nonsense", None)).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let token = folder.token("ann", &["m-1"]);
    let add = proto::RegisterMachineRequest::default();
    let refused = client.register_machine(with(add, &token, None)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("enrol"), "{refused}");
    let remove = proto::RemoveMachineRequest::default();
    let refused = client.remove_machine(with(remove, &token, None)).await;
    assert!(refused.unwrap_err().message().contains("revoke-machine"));
}
