"""Every error ecdiff raises on purpose.

```
EcdiffError
├── InputError            what the caller asked for is wrong (exit code 2)
│   └── PlanError         a plan or phase that makes no sense
├── PairError             a pair cannot be loaded, or its sides do not fit together
├── PayloadError          bytes that are not a handoff or checkpoint we accept
│   ├── PayloadVersionError
│   ├── FingerprintError  made by, or served by, another pair
│   ├── TruncatedError
│   ├── TooLargeError
│   ├── DtypeError
│   └── NonFiniteError    NaN or infinity in latents, noise or a picture
├── LinkError             the way to the cloud
│   ├── UnreachableError  nobody answers
│   ├── LinkLostError     the connection broke in the middle
│   ├── LinkTimeoutError  silence for longer than the read timeout
│   └── RefusedError      the server answered with an error of its own
└── ServeError            the server cannot start (port taken)
```

Each class has a `code`, the name it carries across the wire.
"""

from __future__ import annotations


class EcdiffError(Exception):
    code = "error"


class InputError(EcdiffError):
    code = "bad_input"


class PlanError(InputError):
    code = "bad_plan"


class PairError(EcdiffError):
    code = "bad_pair"


class PayloadError(EcdiffError):
    code = "bad_payload"


class PayloadVersionError(PayloadError):
    code = "wrong_payload_version"


class FingerprintError(PayloadError):
    code = "wrong_fingerprint"


class TruncatedError(PayloadError):
    code = "truncated_payload"


class TooLargeError(PayloadError):
    code = "payload_too_large"


class DtypeError(PayloadError):
    code = "forbidden_dtype"


class NonFiniteError(PayloadError):
    code = "non_finite"


class LinkError(EcdiffError):
    code = "link"


class UnreachableError(LinkError):
    code = "unreachable"


class LinkLostError(LinkError):
    code = "link_lost"


class LinkTimeoutError(LinkError):
    code = "link_timeout"


class RefusedError(LinkError):
    """The server said no. `remote_code` is the code of the error it raised."""

    code = "refused"

    def __init__(self, message: str, remote_code: str = "error") -> None:
        super().__init__(message)
        self.remote_code = remote_code


class ServeError(EcdiffError):
    code = "serve"
