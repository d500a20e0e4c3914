# interim
$Server = ''      # the server's URL
$Version = ''     # of the agent that it has
$Sums = @{}       # SHA-256 of it, by architecture
