"""What every section of a configuration has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings that belong together; an unknown key is a fault."""

    model_config = ConfigDict(extra="forbid")
