"""A DICOM node: it receives CT series, denoises each by a stored basis, and sends the result to other nodes.

    receiving   listening, scp, receiver, spool, inbox   an association, and its instances as files
                part10, stow, dicomweb, http             the same over HTTP, and the status of jobs
    queue       database, queue, outgoing                what was received, is to be done, and is to be sent
    completing  completeness                             when a series is complete
    denoising   bases, denoiser, task, worker            which basis fits, and a process that denoises
    sending     calling, scu, stow_client, channel       C-STORE and STOW-RS
                deliver, commitment                      results, and reports of storage commitment
    archives    pull, push                               a study of an archive, a folder to an archive
    container   container                                a folder in, a folder out, as other routers call it

`service` puts them together. Every change of state is one transaction of the queue, so that a node that is killed
continues where it was. A further way in calls `Inbox.keep`, as `scp` and `stow` do; a further way out is a `Channel`.
"""
