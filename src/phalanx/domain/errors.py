"""The tree of errors that a caller of Phalanx can meet.

PhalanxError
├── ScenarioError           a file that the user wrote is not usable
├── LogError                an event log is not usable
├── StoreError              the event store cannot be reached or written
│   └── ClaimedError        another orchestrator works on the service (orchestration.journal)
├── DetectorError           a detector is unknown or cannot be loaded (analytics.detectors)
├── CaptureError            a recorded capture is not usable (analytics.capture)
├── FlowDataError           recorded flows are no data set (analytics.flow_models)
├── MetricError             metrics cannot be read, or are none (analytics.metrics)
├── ModelError              a model is not what its card says, or is none (analytics.models)
├── MemoryUnusable          what an agent remembers cannot be taken up (bdi.memory)
├── HardeningError          a program cannot be hardened, or a variant is refused (trust.hardening)
├── MeasurementError        a process cannot be measured, a TPM not asked (trust.measurement)
├── WireError               a message came in that is none (bus.wire)
├── IdentityError           a certificate, a key or an authority is refused (identity)
├── BrokerError             the broker cannot be reached, or refuses (bus.client)
│   └── NotPermittedError   the identity may not do this
├── SealedKeyError          a key that was handed out cannot be opened (trust.keys)
├── LedgerError             the ledger cannot be opened or asked, or its answer is none (ledger)
│   └── RpcError            a node does not do what it was asked (ledger.chain)
├── MmtError                a rule of MMT-Security is refused (policy.mmt)
├── IntentError             an intent is refused (policy.intents)
├── NotExpressibleError     a target cannot say what a rule says (policy.exchange)
├── UnsaidError             no rule can say what a text in another format says (policy.exchange)
├── OverlapLimitError       rules overlap in too many ways to be compared (policy.boxes)
├── EnvelopeError           something is no CloudEvent, or none of ours (fabric.envelope)
├── PackingError            octets are no action or percept (infrastructure.remote)
├── RegistrationError       octets are no registration (fabric.registration)
├── TracingError            traces cannot be exported (fabric.tracing)
├── PlacementError          no pipeline keeps the needs of a service (orchestration.mlfo)
├── ImlError                a site does not do what it was asked to (orchestration.iml)
│   └── BusyError           it cannot do it now; it may be tried again
├── WorkflowError           a change of a service did not come to its end (orchestration.workflow)
│   └── RolledBackError     it failed for good; everything is as it was before
├── TransientFault          something did not work now, and may in a moment
├── NotAvailableError       nobody here does this step of the workflow
├── ImageError              the image of a VNF is unusable (infrastructure.linux.images)
├── TaskError               the Linux driver could not do what was asked (…linux.tasks)
│   ├── SilentError         a VNF cannot be reached, or takes too long
│   └── DiskFullError       there is no disk space for an image (…linux.repository)
├── NoRouteError            routers cannot be told of a measure (infrastructure.linux.routers)
├── KernelError             this machine does not do what a run needs (infrastructure.linux.kernel)
└── OverlayError            the agents' network cannot be set up or changed (…linux.overlay_node)

A request that the network refuses is no error: it is answered with a reason
(``domain.actions.Failed``), and the log keeps it.
"""


class PhalanxError(Exception):
    """Base of every error that Phalanx raises on purpose; its text is one clear line."""


class ScenarioError(PhalanxError):
    """A scenario or topology file is refused; says file, field, what is wrong, what is allowed."""


class LogError(PhalanxError):
    """An event log cannot be read or does not hold what was asked for."""


class StoreError(PhalanxError):
    """The event store cannot be opened, read or written."""
