"""Settings, read once from the environment (`MAILMILL_*`). Unset means embedded defaults in the project folder.

A container gets its secrets as files: a setting that is not in the environment is read from the file of its name in
lower case (`mailmill_database_url`) in MAILMILL_SECRETS_DIR, which by default is where Docker puts them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from mailmill.errors import Misconfigured


class Settings(BaseSettings):
    """Every setting of mailmill. The README lists them; a test compares the two.

    Settings say where things are. What is sent to whom lies in the project's YAML files.
    """

    model_config = SettingsConfigDict(env_prefix="MAILMILL_", frozen=True, extra="ignore")

    project: Path = Field(
        default=Path("."),
        description="project folder; what the YAML names as `file:` or `folder` is relative to it",
    )
    home: Path = Field(default=Path(".mailmill"), description="data folder; by default in the project folder")
    database_url: SecretStr | None = Field(
        default=None, repr=False, description="PostgreSQL 18 or newer; unset: the embedded server"
    )
    postgres_options: str = Field(default="", description="settings of the embedded server, as 'name=value name=value'")
    kafka_url: str | None = Field(
        default=None, description="host:port[,host:port] of the event log; unset: a table in PostgreSQL"
    )
    resolver: str = Field(
        default="",
        description="DNS servers that say where a domain's mail goes, host:port[,host:port]; unset: no DNS is asked",
    )
    public_url: str = Field(
        default="",
        description="https URL under which the ingress is reached from outside; unset: sandbox only",
    )
    private_sources: str = Field(
        default="",
        description="hosts and networks, comma-separated, that sources may be read from although they are private "
        "(`127.0.0.1,10.2.0.0/16`); unset: public ones only",
    )
    bind: str = Field(default="127.0.0.1", description="address the servers listen on")
    dagster_url: str | None = Field(
        default=None, description="Dagster's web server, to which the listener reports what it folded; unset: nobody"
    )
    dagster_storage_url: SecretStr | None = Field(
        default=None,
        repr=False,
        description="PostgreSQL in which Dagster's services keep their runs; unset: beside the database of mailmill",
    )
    dagster_port: int = Field(default=3000, description="port of Dagster's UI")
    ingress_port: int = Field(default=8025, description="port of pixel, click, unsubscribe and webhooks")
    stats_port: int = Field(default=8026, description="port of the stats API")
    sandbox_port: int = Field(default=2525, description="SMTP port of the sandbox relay")
    metrics_port: int = Field(
        default=0, description="port on which `mailmill send --forever` serves Prometheus' /metrics; 0: none"
    )
    journal: Path | None = Field(
        default=None, description="folder of the send worker's journal; unset: `journal` in the data folder"
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: Literal["text", "json"] = Field(
        default="text", description="`text`, a line for people; `json`, an object a line, for what collects logs"
    )
    secrets_dir: Path = Field(
        default=Path("/run/secrets"), description="folder with a file a setting, for secrets in containers"
    )

    @property
    def project_path(self) -> Path:
        """The project folder, absolute."""
        return self.project.expanduser().absolute()

    @property
    def home_path(self) -> Path:
        """The data folder, absolute."""
        home = self.home.expanduser()
        return home.absolute() if "home" in self.model_fields_set else self.project_path / home

    @property
    def journal_path(self) -> Path:
        return self.journal.expanduser().absolute() if self.journal else self.home_path / "journal"


def read_settings() -> Settings:
    """The settings of this process.

    Raises: Misconfigured naming the variable and what is wrong with it.
    """
    folder = os.environ.get("MAILMILL_SECRETS_DIR", str(Settings.model_fields["secrets_dir"].default))
    try:
        # a folder that is not there would be warned about
        return Settings(_secrets_dir=folder if os.path.isdir(folder) else None)
    except SettingsError as error:
        raise Misconfigured(str(error), place="MAILMILL_SECRETS_DIR") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = "MAILMILL_" + "_".join(str(part) for part in first["loc"]).upper()
        raise Misconfigured(str(first["msg"]), place=name, remedy="Correct or unset this variable.") from None
