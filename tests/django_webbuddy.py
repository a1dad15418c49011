"""A real WebBuddy server, as far as a worker meets it: Django + DRF + SimpleJWT in one file.

    python tests/django_webbuddy.py --port 0 --dir DIR [--push-url http://127.0.0.1:8001]

prints its URL on the first line of its output and serves until it is ended. Its database
(SQLite, Django's defaults) and its log live in DIR; started again with the same DIR, it goes on
with the same queries, tokens and accounts. A database of PostgreSQL's lives where --postgres says.

The contract suite runs against it, so that the embedded WebBuddy is checked against what these
packages really do and not against what somebody thinks they do. Written from the description of
WebBuddy's API; WebBuddy's own source was not at hand.
"""

from __future__ import annotations

import argparse
import logging
import os
import threading
from datetime import timedelta
from pathlib import Path

import django
import httpx
from django.apps import AppConfig
from django.conf import settings

SIGNING_KEY = "the contract suite signs tokens of its own with this key"
SERVICE, MEMBER, STRANGER = "worker", "member", "stranger"
PASSWORD = "correct horse battery staple"

logger = logging.getLogger("webbuddy")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--dir", type=Path, required=True, help="where the database and the log are kept")
    parser.add_argument("--push-url", default="", help="FASTAPI_URL: where the worker listens")
    parser.add_argument("--access-lifetime", type=float, default=24 * 3600, metavar="SECONDS")
    parser.add_argument("--refresh-lifetime", type=float, default=7 * 24 * 3600, metavar="SECONDS")
    parser.add_argument("--rotate", action="store_true", help="ROTATE_REFRESH_TOKENS, with the blacklist")
    parser.add_argument("--debug", action="store_true", help="DEBUG: error pages of up to 100 kB")
    parser.add_argument("--postgres", default="", metavar="FOLDER", help="of a PostgreSQL's socket")
    parser.add_argument("--processes", type=int, default=1, help="that share the port, threads in each")
    parser.add_argument("--middleware", default="", metavar="NAME", help="one more, around all others")
    return parser.parse_args()


ARGUMENTS = parse_arguments()
DATABASE = ARGUMENTS.dir / "db.sqlite3"


class WebBuddyConfig(AppConfig):
    """Makes this file an app, so that the models below have one to belong to."""

    label = "webbuddy"
    path = str(Path(__file__).parent)
    default_auto_field = "django.db.models.BigAutoField"


POSTGRES = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": ARGUMENTS.postgres,
    "NAME": "postgres",
    "USER": "webbuddy",
}

BLACKLIST = ["rest_framework_simplejwt.token_blacklist"] if ARGUMENTS.rotate else []

settings.configure(
    DEBUG=ARGUMENTS.debug,
    SECRET_KEY=SIGNING_KEY,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "rest_framework",
        *BLACKLIST,
        WebBuddyConfig("webbuddy", __import__(__name__)),
    ],
    MIDDLEWARE=[
        *filter(None, [ARGUMENTS.middleware]),
        "django.middleware.locale.LocaleMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    # No options: these are what every new project starts with. In particular the journal mode is
    # "delete" and the time-out 5 s, and transactions begin DEFERRED. Why that makes claims fail
    # at once is told at `claim_next`.
    DATABASES={
        "default": POSTGRES
        if ARGUMENTS.postgres
        else {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}
    },
    # The default takes half a second of CPU for each log-in.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    LANGUAGE_CODE="ru",
    LANGUAGES=[("ru", "Русский"), ("en", "English")],
    TIME_ZONE="Europe/Moscow",
    USE_TZ=True,
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(name)s %(message)s"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": ARGUMENTS.dir / "django.log",
                "formatter": "plain",
            }
        },
        "root": {"handlers": ["file"], "level": "WARNING"},
        "loggers": {
            "webbuddy": {"level": "INFO"},
            "django.server": {"handlers": ["file"], "level": "ERROR", "propagate": False},
            "django": {"handlers": [], "level": "WARNING", "propagate": True},
        },
    },
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "PAGE_SIZE": 50,
    },
    SIMPLE_JWT={
        "ACCESS_TOKEN_LIFETIME": timedelta(seconds=ARGUMENTS.access_lifetime),
        "REFRESH_TOKEN_LIFETIME": timedelta(seconds=ARGUMENTS.refresh_lifetime),
        "ROTATE_REFRESH_TOKENS": ARGUMENTS.rotate,
        "BLACKLIST_AFTER_ROTATION": ARGUMENTS.rotate,
    },
)
django.setup()

# Django's models can only be imported, and ours only be defined, when the apps are there.
from django.apps import apps  # noqa: E402
from django.contrib.auth import authenticate  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, models, transaction  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import include, path, re_path  # noqa: E402
from django.utils import timezone  # noqa: E402
from django.views import View  # noqa: E402
from rest_framework import mixins, serializers, status, viewsets  # noqa: E402
from rest_framework.decorators import action  # noqa: E402
from rest_framework.permissions import AllowAny  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.routers import SimpleRouter  # noqa: E402
from rest_framework.views import APIView  # noqa: E402
from rest_framework_simplejwt.tokens import RefreshToken  # noqa: E402
from rest_framework_simplejwt.views import TokenRefreshView  # noqa: E402


class Project(models.Model):
    """What queries and ordinary accounts belong to."""

    name = models.CharField(max_length=100)
    test_it_token = models.CharField(max_length=255, blank=True, default="")
    test_it_project_id = models.CharField(max_length=255, blank=True, default="")
    jira_token = models.CharField(max_length=255, blank=True, default="")
    jira_project_id = models.CharField(max_length=255, blank=True, default="")
    project_context = models.TextField(blank=True, default="")

    class Meta:
        app_label = "webbuddy"


class Profile(models.Model):
    """What an account may see: everything, one project or nothing."""

    user = models.OneToOneField(User, on_delete=models.CASCADE)
    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE)
    is_service = models.BooleanField(default=False)

    class Meta:
        app_label = "webbuddy"


class Query(models.Model):
    """One query."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    user = models.ForeignKey(User, on_delete=models.CASCADE)
    query_text = models.TextField()
    answer_text = models.TextField(blank=True, default="")
    status = models.CharField(
        max_length=20,
        choices=[(name, name) for name in ("queued", "in_progress", "done", "failed")],
        default="queued",
        db_index=True,
    )
    query_created = models.DateTimeField(auto_now_add=True)
    query_started = models.DateTimeField(null=True)
    query_finished = models.DateTimeField(null=True)

    class Meta:
        app_label = "webbuddy"
        ordering = ("-query_created", "-id")


class LogEntry(models.Model):
    """One log entry of a query, in the order of the server's clock at insertion."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    query = models.ForeignKey(Query, on_delete=models.CASCADE, related_name="logs")
    log_data = models.TextField()
    log_created = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "webbuddy"
        ordering = ("log_created", "id")


class TokenUsage(models.Model):
    """What a call of a language model has used; older versions of WebBuddy have none."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    query = models.ForeignKey(Query, on_delete=models.CASCADE)
    ai_agent_name = models.CharField(max_length=50)
    request_to_ai_agent = models.TextField()
    ai_agent_answer = models.TextField()
    model_name = models.CharField(max_length=50)
    model_role = models.CharField(max_length=50)
    prompt_tokens = models.IntegerField(null=True, blank=True)
    completion_tokens = models.IntegerField(null=True, blank=True)
    total_tokens = models.IntegerField(null=True, blank=True)
    precached_prompt_tokens = models.IntegerField(null=True, blank=True)
    input_tokens = models.IntegerField(null=True, blank=True)
    output_tokens = models.IntegerField(null=True, blank=True)
    system_prompt = models.TextField(blank=True, default="")
    user_prompt = models.TextField(blank=True, default="")
    agent_prompt = models.TextField(blank=True, default="")

    class Meta:
        app_label = "webbuddy"


class QuerySerializer(serializers.ModelSerializer):
    """A query as the API shows it."""

    project_name = serializers.CharField(source="project.name", read_only=True)
    user_name = serializers.CharField(source="user.username", read_only=True)
    logs_count = serializers.IntegerField(source="logs.count", read_only=True)

    class Meta:
        model = Query
        fields = (
            *("id", "project", "project_name", "user", "user_name", "query_text", "answer_text", "status"),
            *("query_created", "query_started", "query_finished", "logs_count"),
        )
        read_only_fields = ("user", "query_created", "query_started", "query_finished")


class ProjectSerializer(serializers.ModelSerializer):
    """A project's settings as the API shows them: secrets in full."""

    project_name = serializers.CharField(source="name", read_only=True)

    class Meta:
        model = Project
        fields = (
            *("id", "project_name", "test_it_token", "test_it_project_id"),
            *("jira_token", "jira_project_id", "project_context"),
        )


class LogEntrySerializer(serializers.ModelSerializer):
    """A log entry as the API shows it."""

    class Meta:
        model = LogEntry
        fields = ("id", "project", "query", "log_data", "log_created")


class TokenUsageSerializer(serializers.ModelSerializer):
    """A token usage as the API takes it."""

    class Meta:
        model = TokenUsage
        exclude = ("id",)


def visible_projects(user: User) -> models.QuerySet[Project]:
    """All projects for a service account, its own one for any other."""
    profile = Profile.objects.filter(user=user).first()
    if user.is_superuser or (profile is not None and profile.is_service):
        return Project.objects.all()
    return Project.objects.filter(profile__user=user)


class QueryViewSet(
    mixins.CreateModelMixin,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    viewsets.GenericViewSet,
):
    """Everything under ``/api/queries/``."""

    serializer_class = QuerySerializer
    http_method_names = ("get", "post", "patch", "head", "options")

    def get_queryset(self) -> models.QuerySet[Query]:
        """Only what the account may see; without a project that is nothing, never a 403."""
        return Query.objects.filter(project__in=visible_projects(self.request.user))

    def perform_create(self, serializer: QuerySerializer) -> None:
        """Save it and tell the worker, in a thread that nobody waits for."""
        query = serializer.save(user=self.request.user)
        if ARGUMENTS.push_url:
            threading.Thread(target=push, args=(query.pk,), daemon=True).start()

    @action(detail=False, methods=["post"])
    def claim_next(self, request: object) -> Response:
        """Hand out the oldest queued query.

        Two of these at once on SQLite, and one gets "database is locked" at once, not after the
        5 s of the time-out: SQLite knows no ``FOR UPDATE``, so the deferred transaction starts
        with the SELECT's shared lock and asks for the write lock only at the UPDATE. When
        another connection has the write lock by then, that one waits for our shared lock to go
        and we for its write lock. SQLite sees the deadlock and refuses at once, without its busy
        handler. A single UPDATE or INSERT (PATCH, logs) holds no shared lock while it asks, so
        that it may wait.
        """
        with transaction.atomic():
            query = (
                self.get_queryset()
                .select_for_update(skip_locked=True, of=("self",))
                .filter(status="queued")
                .order_by("query_created", "id")
                .first()
            )
            if query is None:
                return Response({"detail": "No queued queries available"}, status.HTTP_404_NOT_FOUND)
            query.status = "in_progress"
            query.query_started = timezone.now()
            query.save(update_fields=["status", "query_started"])
        return Response(self.get_serializer(query).data)

    @action(detail=False)
    def by_status(self, request: object) -> Response:
        """List the queries of one status."""
        wanted = self.request.query_params.get("status", "")
        page = self.paginate_queryset(self.get_queryset().filter(status=wanted))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    @action(detail=True)
    def logs(self, request: object, pk: str) -> Response:
        """List a query's log entries."""
        page = self.paginate_queryset(self.get_object().logs.all())
        return self.get_paginated_response(LogEntrySerializer(page, many=True).data)


class LogViewSet(mixins.CreateModelMixin, viewsets.GenericViewSet):
    """``POST /api/logs/``."""

    queryset = LogEntry.objects.all()
    serializer_class = LogEntrySerializer


class TokenUsageViewSet(mixins.CreateModelMixin, viewsets.GenericViewSet):
    """``POST /api/token-usage/``."""

    queryset = TokenUsage.objects.all()
    serializer_class = TokenUsageSerializer


class ProjectViewSet(viewsets.GenericViewSet):
    """``GET /api/projects/{id}/tokens/``, which older versions of WebBuddy do not have."""

    serializer_class = ProjectSerializer

    def get_queryset(self) -> models.QuerySet[Project]:
        """Only what the account may see; any other is 404."""
        return visible_projects(self.request.user)

    @action(detail=True)
    def tokens(self, request: object, pk: str) -> Response:
        """Show a project's settings."""
        return Response(self.get_serializer(self.get_object()).data)


def describe(user: User) -> dict[str, object]:
    """Give the account as log-in and ``users/me`` show it."""
    profile = Profile.objects.filter(user=user).first()
    return {"id": user.pk, "username": user.username, "project": profile and profile.project_id}


class LoginView(APIView):
    """``POST /api/login/``."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def post(self, request: object) -> Response:
        """Hand out tokens."""
        data = self.request.data if isinstance(self.request.data, dict) else {}
        user = authenticate(username=data.get("username"), password=data.get("password"))
        if user is None:
            return Response({"error": "Invalid credentials"}, status.HTTP_401_UNAUTHORIZED)
        token = RefreshToken.for_user(user)
        return Response({"access": str(token.access_token), "refresh": str(token), "user": describe(user)})


class MeView(APIView):
    """``GET /api/users/me/``."""

    def get(self, request: object) -> Response:
        """Show who the token belongs to."""
        return Response(describe(self.request.user))


class PageView(View):
    """The catch-all route: every other path is a matter of the page, which is static HTML."""

    def get(self, request: object) -> HttpResponse:
        """Give the page."""
        return HttpResponse('<!doctype html><title>WebBuddy</title><div id="root"></div>')


router = SimpleRouter()
router.register("queries", QueryViewSet, basename="query")
router.register("logs", LogViewSet)
router.register("token-usage", TokenUsageViewSet)
router.register("projects", ProjectViewSet, basename="project")

urlpatterns = [
    path("api/login/", LoginView.as_view()),
    path("api/token/refresh/", TokenRefreshView.as_view()),
    path("api/users/me/", MeView.as_view()),
    path("api/", include(router.urls)),
    re_path(r"^.*$", PageView.as_view()),
]


def push(query_id: int) -> None:
    """Tell the worker once, on a connection of its own; nothing but 200 is a success."""
    body = {"query_id": query_id, "webbuddy_url": ARGUMENTS.url}
    try:
        with httpx.Client(timeout=2, trust_env=False, verify=False) as client:  # noqa: S501
            answer = client.post(f"{ARGUMENTS.push_url}/api/process-query", json=body)
    except httpx.HTTPError as error:
        logger.info("push of query %d failed: %r", query_id, error)
        return
    outcome = "accepted" if answer.status_code == 200 else "failed"
    logger.info("push of query %d %s: %d", query_id, outcome, answer.status_code)


def create_database() -> None:
    """Create the tables, two projects and three accounts; keep what an earlier start left."""
    if Query._meta.db_table in connection.introspection.table_names():
        return
    with connection.schema_editor() as editor:
        for model in apps.get_models(include_auto_created=True):
            if model._meta.auto_created is False:
                editor.create_model(model)  # … with its many-to-many tables
    with transaction.atomic():
        project = Project.objects.create(name="Portal")
        Project.objects.create(name="Other")
        for username, visible, is_service in (
            (SERVICE, None, True),
            (MEMBER, project, False),
            (STRANGER, None, False),
        ):
            user = User.objects.create_user(username, password=PASSWORD)
            Profile.objects.create(user=user, project=visible, is_service=is_service)


class Server(ThreadedWSGIServer):
    """A thread for each connection, as ``runserver`` has."""

    request_queue_size = 1024


def main() -> None:
    """Serve until the process is ended."""
    create_database()
    server = Server((ARGUMENTS.host, ARGUMENTS.port), WSGIRequestHandler)
    server.set_app(get_wsgi_application())
    ARGUMENTS.url = f"http://{ARGUMENTS.host}:{server.server_address[1]}"
    print(ARGUMENTS.url, flush=True)
    connection.close()  # it must not be shared
    for _ in range(ARGUMENTS.processes - 1):
        if os.fork() == 0:
            break
    server.serve_forever()


if __name__ == "__main__":
    main()
