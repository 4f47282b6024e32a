"""What schemathesis has to be told of the endpoint: how a body of features is sent."""

from __future__ import annotations

import schemathesis

from serving import feature_file

schemathesis.serializer.alias(feature_file.MEDIA_TYPE, "application/octet-stream")
