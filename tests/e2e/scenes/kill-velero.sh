# Velero is killed with volumes under way, once it has left them to us

# Before that it gives a backup up by itself when it is started again. The first process of its container is killed: the plugins end with it.
killed_under_way velero_server KILL
