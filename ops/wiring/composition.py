"""The composition root: the only place that knows every part."""

from ipaddress import ip_network
from pathlib import Path

from calotype.commands.context import CommandContext, Limits
from calotype.commands.images.downloads import Downloads
from calotype.commands.images.fields import Formats
from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS
from calotype.commands.images.usage import USAGE
from calotype.http.cors import Cors
from calotype.http.links import Proxies
from calotype.http.middleware import Api
from calotype.ops.settings.policy_files import load_policy
from calotype.ops.settings.settings import Settings, SettingsError
from calotype.ops.wiring.identity import identity_of
from calotype.ops.wiring.quotas import quotas_of
from calotype.ops.wiring.webhooks import webhooks_of
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.engine.follower import Follower
from calotype.projections.feed import audience
from calotype.projections.feed.commit_watcher import CommitWatcher
from calotype.projections.feed.feed import Feed
from calotype.projections.feed.stream_tickets import STREAM_TICKETS, StreamTickets
from calotype.projections.images.queries import Queries
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import SUCCESSIONS, TABLES
from calotype.projections.past.as_of import Moments
from calotype.projections.past.row_version_follower import RowVersionFolder
from calotype.projections.past.row_version_snapshots import VERSION_SNAPSHOTS
from calotype.projections.past.row_versions import FOLLOWER, VERSION_TABLES
from calotype.projections.rebuild.usage import recount
from calotype.projections.seal.seal import SEAL_TABLES
from calotype.projections.sinks.exists_audit import AUDITS
from calotype.projections.sinks.parked import PARKED, STATES
from calotype.stores.images.driver import Driver, StoreError
from calotype.stores.images.opening import open_driver
from calotype.stores.images.threads import threads_of
from calotype.stores.log.leases import LeaseTerms
from calotype.stores.log.log import CACHE_BYTES, EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.options import LogOptions
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.snapshots import SNAPSHOTS

REST_SECONDS = 0.03
"""How long the audiences of events rest after a page: commands share the disk with them."""

CHUNK_EVENTS = 16
"""Each of these may write the whole document of its image again, among the versions."""

QUERY_TABLES = (
    *TABLES,
    *VERSION_TABLES,
    VERSION_SNAPSHOTS,
    *SEAL_TABLES,
    SNAPSHOTS,
    PARKED,
    STATES,
    AUDITS,
    audience.EVENT_AUDIENCE,
    STREAM_TICKETS,
)


def recorder_of(settings: Settings) -> GroupCommitRecorder:
    """The event log's recorder, opened but not connected."""
    options = settings.log.model_dump(include=set(LogOptions.__slots__))
    try:
        recorder = open_log(settings.log_url(), **options)
    except ValueError as error:
        raise SettingsError(f"log.url: {error}") from None
    recorder.lease_terms = LeaseTerms(**settings.leases.model_dump())
    return recorder


def migrate(recorder: GroupCommitRecorder) -> list[str]:
    """Brings the log and the query tables up to date; returns the migrations that it applied."""
    applied = recorder.migrate()
    if recorder.succeed(SUCCESSIONS):
        # Spare tables of the older version, if there are any, cannot be switched to.
        recorder.forget_tracking("rebuild:images:")
    recorder.create_tables(QUERY_TABLES)
    if recorder.missing_tables([USAGE]):
        # Made and filled at once, so that nobody ever takes an empty table for a whole one.
        recount(recorder)
    return applied


def check_way(recorder: GroupCommitRecorder) -> None:
    """Raises SettingsError when the log cannot work the way that its database is reached."""
    if fix := recorder.unsuitable():
        raise SettingsError(fix)


def is_up_to_date(recorder: GroupCommitRecorder) -> bool:
    """Whether `migrate` would change nothing: no migration is pending and no table is missing."""
    return not recorder.pending_migrations() and not recorder.missing_tables([*QUERY_TABLES, USAGE])


def embedded_log(settings: Settings) -> Path | None:
    """The file of the embedded log; None for one in PostgreSQL."""
    scheme, _, path = settings.log_url().partition(":///")
    return Path(path) if scheme == "sqlite" else None


def require_log(settings: Settings) -> None:
    """Raises SettingsError where there is no embedded log, so that looking does not make one."""
    file = embedded_log(settings)
    if file is not None and not file.exists():
        raise SettingsError(
            f"log.url: there is no event log at {file}; name another with --data or --log-url, "
            "or let `calotype serve` make this one"
        )


def _require_up_to_date(recorder: GroupCommitRecorder) -> None:
    check_way(recorder)
    if not is_up_to_date(recorder):
        raise SettingsError("log.url: the database is not up to date; run `calotype migrate`")


def require_ready(recorder: GroupCommitRecorder) -> None:
    """Raises SettingsError unless the log is up to date, and its user may do what serving needs."""
    _require_up_to_date(recorder)
    missing = recorder.missing_rights()
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SettingsError(f"log.url: the database user lacks {', '.join(missing[:3])}{more}")


def ready_recorder(settings: Settings) -> GroupCommitRecorder:
    """The recorder of a log that is up to date, for tools. Raises SettingsError for another."""
    require_log(settings)
    recorder = recorder_of(settings)
    try:
        _require_up_to_date(recorder)
    except BaseException:
        recorder.close_now()
        raise
    return recorder


def stores_of(settings: Settings) -> dict[str, Driver]:
    """The drivers of the stores, by the names that the operator gave them.

    Raises SettingsError for what no driver can be made of.
    """
    try:
        driver = open_driver(settings.store.kind, settings.store_options())
    except ValueError as error:
        raise SettingsError(f"store.{error}") from None
    except StoreError as error:
        raise SettingsError(f"store: {error}") from None
    threads_of(driver).deadline_seconds = settings.store.deadline_seconds
    return {settings.store.name: driver}


def parts_of(settings: Settings, recorder: GroupCommitRecorder) -> CommandContext:
    """What commands work with."""
    quotas = quotas_of(settings, recorder)
    return CommandContext(
        log=EventLog(
            recorder,
            rows_of,
            quotas,
            snapshots=IMAGE_SNAPSHOTS,
            cache_bytes=settings.log.cache_bytes,
        ),
        stores=stores_of(settings),
        default_store=settings.store.name,
        quotas=quotas,
        limits=Limits(**settings.limits.model_dump(include=set(Limits.__slots__))),
        hash_algorithm=settings.hashing_algorithm,
        formats=Formats(
            tuple(settings.formats.disk_formats), tuple(settings.formats.container_formats)
        ),
        format_must_match=settings.formats.require_match,
        tolerated_checks=frozenset(settings.formats.gpt_safety_checks_nonfatal),
        retention_seconds=settings.deletion.retention_seconds,
        locations_shown=settings.http.show_multiple_locations,
    )


def versions_follower(context: CommandContext, cache_bytes: int = CACHE_BYTES) -> Follower:
    """Keeps the tables of past moments up to date; runs in every process, one of which leads."""
    recorder = context.log.recorder
    return Follower(
        recorder,
        FOLLOWER,
        RowVersionFolder(recorder, snapshots=True, cache_bytes=cache_bytes),
        holder=context.process_id,
        chunk_events=CHUNK_EVENTS,
        rest_seconds=0.05,
        rest_factor=2.0,
    )


def audience_follower(
    context: CommandContext, watcher: CommitWatcher, cache_bytes: int = CACHE_BYTES
) -> Follower:
    """Keeps the table that the feeds of projects are read from; woken by every commit."""
    recorder = context.log.recorder
    fold = audience.EventAudience(recorder, snapshots=IMAGE_SNAPSHOTS, cache_bytes=cache_bytes)
    return Follower(
        recorder,
        audience.FOLLOWER,
        fold,
        holder=context.process_id,
        wait=watcher.grown,
        rest_seconds=REST_SECONDS,
    )


def api_of(settings: Settings, context: CommandContext) -> Api:
    """What HTTP handlers work with."""
    recorder = context.log.recorder
    feed = Feed(recorder)
    consumers = Consumers(recorder, feed)
    return Api(
        context=context,
        queries=Queries(recorder, settings.http.page_bytes),
        moments=Moments(recorder),
        feed=feed,
        consumers=consumers,
        webhooks=webhooks_of(settings, recorder, consumers),
        tickets=StreamTickets(recorder),
        identity=identity_of(settings),
        policy=load_policy(settings.policy, settings.property_protections),
        json_body_bytes=settings.http.json_body_bytes,
        default_limit=settings.http.default_limit,
        max_limit=settings.http.max_limit,
        list_bounds={
            "most_filters": settings.limits.list_filters,
            "most_values": settings.limits.filter_values,
        },
        direct_url_shown=settings.http.show_image_direct_url,
        public_endpoint=settings.http.public_endpoint.rstrip("/"),
        proxies=_proxies_of(settings),
        cors=Cors(**settings.cors.model_dump()) if settings.cors.allowed_origin else None,
        body_stall_seconds=settings.http.body_stall_seconds,
        disable_file=settings.http.disable_file,
        downloads=Downloads(context.log.recorder) if settings.audit.downloads else None,
    )


def _proxies_of(settings: Settings) -> Proxies | None:
    if not settings.http.enable_proxy_headers_parsing:
        return None
    return Proxies([ip_network(network) for network in settings.http.trusted_proxies])
