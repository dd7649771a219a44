# the agent is killed with volumes under way: it goes on where it was

killed_under_way agent KILL
