"""What crosses process borders on the control plane: specs in, status and routing tables out.

msgspec structs, so that encoding is fast and typed. User code is opaque bytes here and stays so: only replicas (and
the process that builds an application) ever unpickle it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class SourceFile(msgspec.Struct, kw_only=True):
    """A module of the user's, as it was when it was deployed."""

    path: str
    source: bytes


class PolicySpec(msgspec.Struct, kw_only=True):
    """An autoscaling policy of the user's.

    Attributes:
        name: its import path, for people.
        code: `cloudpickle.dumps((function or class, keyword arguments of the class))`.
        version: digest of code and arguments; equal policies go on with the state that they have.
        sources: the user's modules that `code` refers to, as in `DeploymentSpec`.
    """

    name: str
    code: bytes
    version: str
    sources: dict[str, SourceFile] = {}


class DeploymentSpec(msgspec.Struct, kw_only=True):
    """One deployment as the driver wants it.

    `options` is `DeploymentOptions.model_dump(mode="json")`. `code` is `cloudpickle.dumps((callable, args, kwargs))`.
    `version` decides whether a redeploy restarts replicas: a hash of code, arguments and the options that only a new
    process can take on. `sources`: the user's modules that `code` refers to, by name; replicas that start after the
    files have changed run these. `policy` decides how many replicas there are; None where the load does.
    """

    app: str
    name: str
    options: dict[str, Any]
    code: bytes
    version: str
    description: dict[str, Any] = {}
    ingress: bool = False
    sources: dict[str, SourceFile] = {}
    policy: PolicySpec | None = None


class ApplicationSpec(msgspec.Struct, kw_only=True):
    """One application: a graph of deployments, and the route that leads to its ingress deployment.

    `runtime_env`: `env_vars`, `working_dir`, and `sys_path` (the driver's, so that its modules import in replicas).
    `config` is the declarative config that it was built from, if it was. `request_timeout_s`: how long its HTTP
    requests may take; None for what the instance's HTTP options say. `external_scaler_enabled`: the numbers of replicas
    are set from outside. `policy` decides for all deployments that scale themselves, in place of their own policies.
    """

    name: str
    route_prefix: str | None
    ingress: str
    deployments: list[DeploymentSpec]
    runtime_env: dict[str, Any] = {}
    config: dict[str, Any] | None = None
    request_timeout_s: float | None = None
    external_scaler_enabled: bool = False
    policy: PolicySpec | None = None


class BuildOutcome(msgspec.Struct, kw_only=True):
    """What a process that builds an application says: the application, or why there is none, for people."""

    ok: ApplicationSpec | None = None
    error: str | None = None


class DeployRequest(msgspec.Struct, kw_only=True):
    """`replace_all`: applications that are not in the list are deleted (the declarative REST API)."""

    applications: list[ApplicationSpec]
    replace_all: bool = False


class DeployReply(msgspec.Struct, kw_only=True):
    deployed: list[str]


class DeleteRequest(msgspec.Struct, kw_only=True):
    names: list[str]


class DeployRecord(msgspec.Struct, kw_only=True):
    """One deploy of an application, as it is remembered.

    Attributes:
        number: counts the application's deploys from 1.
        deployed_at: Unix time, seconds.
        version: digest of all that was deployed: equal for equal deploys.
        outcome: DEPLOYING; SUCCEEDED, when all of it ran in full number; FAILED; REPLACED, when the next deploy came
            before either.
        message: why it failed.
        changes: what it changed, for people.
        restores: the number of the deploy that a rollback brought back with it.
        declared: it came as a config through the REST API.
    """

    number: int
    deployed_at: float
    version: str
    outcome: str
    message: str = ""
    changes: str = ""
    restores: int | None = None
    declared: bool = False


class HistoryRequest(msgspec.Struct, kw_only=True):
    app: str


class ApplicationHistory(msgspec.Struct, kw_only=True):
    """`deploys`: newest first. `rollback_to`: the number of the one that a rollback returns to, None if there is none,
    for a reason that asking for one tells."""

    app: str
    deploys: list[DeployRecord]
    rollback_to: int | None = None


class RollbackRequest(msgspec.Struct, kw_only=True):
    """`to`: number of a deploy; None for the last good one before the current one."""

    app: str
    to: int | None = None


class RollbackReply(msgspec.Struct, kw_only=True):
    """`to`: the deploy that was brought back. `number`: that of the deploy which brought it back."""

    to: int
    number: int


class GangPlace(msgspec.Struct, kw_only=True, frozen=True):
    """A replica's place in its gang: those that start and end together.

    Attributes:
        gang_id: unique among the gangs of the instance, over time too.
        rank: its place, from 0. It never changes, unlike the replica's place in its deployment.
        world_size: how many replicas the gang has.
        member_replica_ids: these, by rank.
    """

    gang_id: str
    rank: int
    world_size: int
    member_replica_ids: list[str]


class ReplicaSpec(msgspec.Struct, kw_only=True):
    """What a fresh replica process is told to run. `rank` is the replica's place among its deployment's, `local_rank`
    among those on its node, `node_rank` that of the node; `gang` that in its gang, None if it is in none."""

    replica_id: str
    deployment: DeploymentSpec
    route_prefix: str | None
    rank: int = 0
    world_size: int = 1
    root_path: str = ""
    max_body_bytes: int | None = None
    runtime_env: dict[str, Any] = {}
    gang: GangPlace | None = None
    node_rank: int = 0
    local_rank: int = 0


class InitializeReply(msgspec.Struct, kw_only=True):
    """`docs_path`, `openapi_path`: set when the replica's handler describes itself."""

    replica_id: str
    pid: int
    has_check_health: bool = False
    has_reconfigure: bool = False
    retryable_methods: list[str] = []


class ReconfigureRequest(msgspec.Struct, kw_only=True):
    """Options that a running replica takes on without a restart, and its place among its deployment's replicas."""

    options: dict[str, Any]
    user_config_changed: bool = False
    rank: int = 0
    world_size: int = 1
    node_rank: int = 0
    local_rank: int = 0


class DrainRequest(msgspec.Struct, kw_only=True):
    """Refuse new requests; look every `wait_loop_s`; give up after `timeout_s` (seconds)."""

    wait_loop_s: float
    timeout_s: float


class ReplicaState(msgspec.Struct, kw_only=True):
    """What a replica says of itself to a controller that meets it (again).

    `initialized`: its answer to `initialize`, once it has given one. `progress`: how far its constructor is, in words.
    """

    replica_id: str
    app: str
    deployment: str
    version: str
    phase: str  # "starting" | "initializing" | "running" | "draining"
    ongoing: int = 0
    spec: ReplicaSpec | None = None
    error: str | None = None
    multiplexed_model_ids: list[str] = []
    initialized: InitializeReply | None = None
    progress: str = ""


class ReportModelsRequest(msgspec.Struct, kw_only=True):
    """A replica tells the controller which multiplexed models it holds now."""

    replica_id: str
    model_ids: list[str]


class Load(msgspec.Struct, frozen=True):
    """One process's requests to one deployment. `queued`: for want of a replica with room. `running`: sent to a
    replica and not answered in full. No request is in both."""

    queued: int = 0
    running: int = 0

    @property
    def ongoing(self) -> int:
        return self.queued + self.running


class ReportLoadRequest(msgspec.Struct, kw_only=True):
    """A process tells how much it asks of deployments at this moment; by "<app>#<deployment>".

    `latencies`: of the requests that were answered since it last told, where the deployment scales by them: how many by
    bucket of `config.latency_sketch`.
    """

    caller: str
    loads: dict[str, Load]
    latencies: dict[str, dict[int, int]] = {}


class ReportStatsRequest(msgspec.Struct, kw_only=True):
    """A replica tells what the user's `record_autoscaling_stats` returned."""

    replica_id: str
    stats: dict[str, float]


class ReplicaVitals(msgspec.Struct, kw_only=True):
    """Told from a separate thread. `loop_blocked_s`: for how long the event loop has not turned, seconds."""

    replica_id: str
    pid: int
    phase: str
    loop_blocked_s: float
    ongoing: int


class RouteEntry(msgspec.Struct, kw_only=True):
    app: str
    route_prefix: str
    ingress: str
    request_timeout_s: float | None = None


class RoutingTable(msgspec.Struct, kw_only=True):
    routes: list[RouteEntry] = []


class ReplicaTarget(msgspec.Struct, kw_only=True):
    """One replica that takes requests.

    `address`: how other machines reach it, or the path of its socket where there are none. `node`, `zone`: where it
    runs. `socket`: path of its Unix socket, for those who run on the same node.
    """

    replica_id: str
    address: str
    max_ongoing_requests: int
    multiplexed_model_ids: list[str] = []
    node: str = ""
    zone: str = ""
    socket: str | None = None


class DeploymentTargets(msgspec.Struct, kw_only=True):
    """The replica set of one deployment, as routers see it.

    `report_interval_s`: how often routers tell how many requests they have there (autoscaling); None for never.
    `latency_target_s`: they tell the latencies too, of which this is the target, seconds; None for not.
    `unavailable`: why no request can be served and none should wait (deploy failed, deployment unknown); None while
    replicas exist or may still come.
    """

    app: str
    deployment: str
    replicas: list[ReplicaTarget] = []
    max_ongoing_requests: int = 5
    max_queued_requests: int = -1
    refusal_status_code: int = 503
    refusal_retry_after_s: float = 1.0
    routing_policy: dict[str, Any] = {}
    retryable_methods: list[str] = []
    report_interval_s: float | None = None
    latency_target_s: float | None = None
    unavailable: str | None = None


class WatchRequest(msgspec.Struct, kw_only=True):
    """`versions`: key to the version already known (0 for none). `caller`: the name under which the process reports
    load; its counts are forgotten when it watches no more."""

    versions: dict[str, int]
    caller: str = ""


class WatchUpdate(msgspec.Struct, kw_only=True):
    """`value`: msgpack of a `RoutingTable` (key "routes") or of `DeploymentTargets` (key "<app>#<deployment>")."""

    key: str
    version: int
    value: msgspec.Raw


class ReplicaStatus(msgspec.Struct, kw_only=True):
    """`node`: where it runs; empty while it has no place."""

    replica_id: str
    state: str
    pid: int | None = None
    started_at: float | None = None
    message: str = ""
    node: str = ""


class ScalingDecision(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the number of replicas. `at`: Unix time, seconds. `policy`: who decided, None for the load."""

    at: float
    previous: int
    target: int
    reason: str
    policy: str | None = None


class AutoscalingStatus(msgspec.Struct, kw_only=True):
    """What autoscaling sees and does. `reason`: why the target is what it is, or what it waits for.

    `decisions`: the last changes, oldest first. `policy`: who decides, None for the load. `policy_problem`: why it does
    not at present. `needed`: how many replicas the load or the policy asks for, before bounds and delays.
    `min_replicas`, `max_replicas`: the bounds that hold now, with the schedule and the target capacity.
    """

    queued: int
    running: int
    callers: int
    reason: str
    needed: float | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    decisions: list[ScalingDecision] = []
    policy: str | None = None
    policy_problem: str | None = None


class DeploymentStatus(msgspec.Struct, kw_only=True):
    """`status`: Ray Serve's words: UPDATING, HEALTHY, UNHEALTHY, DEPLOY_FAILED, UPSCALING, DOWNSCALING."""

    name: str
    status: str
    status_trigger: str
    message: str
    replica_states: dict[str, int]
    target_num_replicas: int
    options: dict[str, Any]
    replicas: list[ReplicaStatus] = []
    description: dict[str, Any] = {}
    autoscaling: AutoscalingStatus | None = None


class ApplicationStatus(msgspec.Struct, kw_only=True):
    """`status`: NOT_STARTED, DEPLOYING, DEPLOY_FAILED, RUNNING, UNHEALTHY, DELETING.

    `declared`: it came as a config through the REST API.
    """

    name: str
    status: str
    message: str
    route_prefix: str | None
    ingress: str
    last_deployed_time_s: float
    deployments: list[DeploymentStatus]
    config: dict[str, Any] | None = None
    declared: bool = False
    external_scaler_enabled: bool = False


class ProxyStatus(msgspec.Struct, kw_only=True):
    name: str
    pid: int | None
    status: str  # STARTING | HEALTHY | UNHEALTHY | DRAINED
    node: str = ""


class NodeStatus(msgspec.Struct, kw_only=True):
    """A machine of the instance.

    Attributes:
        node: what it is called where something says where it runs.
        host: its address, as the others reach it.
        alive: it can run processes.
        head: it is the one that the others depend on.
        resources: what it has in all: "CPU", "GPU", "memory" in bytes, and custom resources.
        labels: what `label_selector` goes by.
        zone: where it is; empty if nothing says so.
    """

    node: str
    host: str
    alive: bool = True
    head: bool = False
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    zone: str = ""


class StatusRequest(msgspec.Struct, kw_only=True):
    """`names`: the applications that are asked after; there may be a thousand others."""

    names: list[str]


class ChangedRequest(msgspec.Struct, kw_only=True):
    """`since`: the number that the last call of `changed` returned, 0 for none."""

    since: int


class InstanceStatus(msgspec.Struct, kw_only=True):
    version: str
    session: str
    root_pid: int
    controller_pid: int
    http_host: str | None
    http_port: int | None
    rest_host: str
    rest_port: int
    proxies: list[ProxyStatus]
    applications: list[ApplicationStatus]
    target_capacity: float | None = None
    nodes: list[NodeStatus] = []
    controller_node: str = ""
