const c=require('crypto'); c.randomUUID(); Math.random();
process.stdin.once('data',()=>{console.log(process.pid,c.randomUUID(),c.randomBytes(8).toString('hex'),Math.random());process.exit(0)});
