//! `betcode.v1.MachineService`: the machines that a caller's token names, and which of them can be called now.
//!
//! Machines are added and removed by the relay's operator, by enrolment and revocation: callers only look.

use std::sync::Arc;
use std::time::SystemTime;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::MachineStatus;
use betcode_schema_grpc::v1::machine_service_server::MachineService;
use betcode_schema_tunnel::{MachineId, metadata};
use tonic::{Code, Request, Response, Status};

use super::status;
use crate::auth::{Caller, InvalidToken};
use crate::tunnel::Table;

/// Path prefix of its methods. The relay answers them itself, whatever machine they name.
pub(super) const PATH_PREFIX: &str = "/betcode.v1.MachineService/";

/// The service. It expects the [`Caller`] among a request's extensions.
pub(crate) struct Machines {
    /// Open tunnels.
    pub(crate) table: Arc<Table>,
}

impl Machines {
    fn info(&self, machine: &MachineId, caller: &Caller) -> proto::MachineInfo {
        let is_online = self.table.find(machine).is_some();
        let status = match is_online {
            true => MachineStatus::Online,
            false => MachineStatus::Offline,
        };
        proto::MachineInfo {
            machine_id: machine.to_string(),
            name: machine.to_string(),
            owner_id: caller.user.clone(),
            status: status.into(),
            // Nobody notes when a machine was enrolled, or when one that is away was there.
            registered_at: None,
            last_seen: is_online.then(|| SystemTime::now().into()),
            metadata: Default::default(),
        }
    }
}

/// Who calls, and the message.
fn caller_of<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let (_, mut extensions, message) = request.into_parts();
    let caller = extensions.remove::<Caller>();
    let caller = caller.ok_or_else(|| status::unauthenticated(InvalidToken::Missing))?;
    Ok((caller, message))
}

fn operators(what: &str, hint: &str) -> Status {
    status::error(Code::Unimplemented, "UNIMPLEMENTED", what)
        .hint(hint)
        .build()
}

#[tonic::async_trait]
impl MachineService for Machines {
    async fn list_machines(
        &self,
        request: Request<proto::ListMachinesRequest>,
    ) -> Result<Response<proto::ListMachinesResponse>, Status> {
        let (caller, asked) = caller_of(request)?;
        let wanted = asked.status_filter();
        let machines = caller.machines.iter();
        let machines = machines.map(|machine| self.info(machine, &caller));
        let matching: Vec<_> = machines
            .filter(|info| wanted == MachineStatus::Unspecified || info.status() == wanted)
            .collect();
        // Bounded by what a token may name.
        let total = u32::try_from(matching.len()).unwrap_or(u32::MAX);
        let limit = match asked.limit {
            0 => u32::MAX,
            limit => limit,
        };
        let matching = matching.into_iter();
        let page = matching.skip(asked.offset as usize).take(limit as usize);
        Ok(Response::new(proto::ListMachinesResponse {
            machines: page.collect(),
            total,
        }))
    }

    async fn get_machine(
        &self,
        request: Request<proto::GetMachineRequest>,
    ) -> Result<Response<proto::GetMachineResponse>, Status> {
        let (caller, asked) = caller_of(request)?;
        let machine = MachineId::new(&asked.machine_id)
            .map_err(|error| status::invalid(metadata::MACHINE_ID, error.to_string()))?;
        if !caller.may_call(&machine) {
            return Err(status::machine_not_allowed());
        }
        Ok(Response::new(proto::GetMachineResponse {
            machine: Some(self.info(&machine, &caller)),
        }))
    }

    async fn register_machine(
        &self,
        _: Request<proto::RegisterMachineRequest>,
    ) -> Result<Response<proto::RegisterMachineResponse>, Status> {
        Err(operators(
            "machines are added by the relay's operator",
            "`betcode-relay enrol MACHINE` prints a code for the machine",
        ))
    }

    async fn remove_machine(
        &self,
        _: Request<proto::RemoveMachineRequest>,
    ) -> Result<Response<proto::RemoveMachineResponse>, Status> {
        Err(operators(
            "machines are removed by the relay's operator",
            "`betcode-relay revoke-machine MACHINE` shuts one out",
        ))
    }
}
