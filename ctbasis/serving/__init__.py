"""A served model: small volumes are denoised over HTTP by the Open Inference Protocol, version 2.

    tensors     tensors of the protocol, in JSON or in its binary extension
    protocol    requests and answers of the model
    model       the model: stored bases, and a process that denoises
    task, worker   what that process is told, and the process
    routes      the routes of the protocol
    serve       the server as a whole

KServe, Triton and their clients speak this protocol. Series in DICOM go to `ctbasis.node`, over HTTP as well.
"""
